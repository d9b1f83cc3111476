//! `warren`: the command line, and every service as a subcommand, in one executable.

#![forbid(unsafe_code)]

mod commands;
mod find;
mod life;
mod places;
mod qr;
mod rights;
mod safe;
mod settings;
mod table;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};
use commands::{
    bugreport, control, doctor, get, join, login, metrics, nc, netcheck, ping, policy, quickstart, relay, serve, set,
    status, switch, up, version, whois,
};

/// Reach your machines, wherever they are: a self-hosted mesh VPN.
#[derive(Parser, Debug)]
#[command(name = "warren", version = version::VERSION, disable_version_flag = true, max_term_width = 100)]
struct Cli {
    /// Socket of the node daemon (or WARREN_SOCKET)
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a network here: control server, relay and this machine's node, with nothing to configure
    Quickstart(quickstart::Quickstart),
    /// Join a network from this machine, in the foreground, without installing anything
    Join(join::Join),
    /// Connect, logging in if needed
    Up(up::Up),
    /// Disconnect, without logging out
    Down,
    /// Log in to a network, beside those that this machine is in already
    Login(login::LoginCommand),
    /// Log out of the current network
    Logout,
    /// Change settings of this node
    Set(set::Set),
    /// Show settings of this node
    Get(get::Get),
    /// Choose the current network
    Switch(switch::Switch),
    /// Show this node and its peers
    Status(status::StatusCommand),
    /// Show addresses
    Ip(commands::ip::Ip),
    /// Does a node answer, by which path, how fast?
    Ping(ping::Ping),
    /// What does the network around this machine allow?
    Netcheck(netcheck::Netcheck),
    /// Whose is an address?
    Whois(whois::Whois),
    /// Connect standard input and output to a port of a node
    Nc(nc::Nc),
    /// Look for what is wrong, and say what to do
    Doctor(doctor::Doctor),
    /// This node in numbers, as Prometheus text
    Metrics(metrics::Metrics),
    /// Collect what somebody who helps needs to know; it is printed, not sent
    Bugreport(bugreport::BugReport),
    /// Words for a shell that complete this command line, such as: source <(warren completion bash)
    Completion { shell: clap_complete::Shell },
    /// Show the version
    Version(version::Version),
    /// Policy files
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// The control server: serve one, or operate it
    Control(Control),
    /// The relay
    #[command(subcommand)]
    Relay(RelayCommand),
    /// The node daemon
    #[command(subcommand)]
    Node(NodeCommand),
    /// The privileged helper of the node daemon
    Helper(Helper),
    /// For people who look for a fault
    #[command(subcommand, hide = true)]
    Debug(Debug),
}

#[derive(Args, Debug)]
struct Control {
    #[command(flatten)]
    remote: control::Remote,
    #[command(subcommand)]
    command: ControlCommand,
}

#[derive(Subcommand, Debug)]
enum ControlCommand {
    /// Run a control server
    Serve(serve::ControlServe),
    #[command(flatten)]
    Operate(control::Operate),
}

#[derive(Subcommand, Debug)]
enum RelayCommand {
    /// Run a relay
    Serve(relay::RelayServe),
}

#[derive(Subcommand, Debug)]
enum NodeCommand {
    /// Run the node daemon
    Run(serve::NodeRun),
}

#[derive(Args, Debug)]
struct Helper {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

#[derive(Subcommand, Debug)]
enum Debug {
    /// What the engine did with packets
    Counters,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = rewrite(std::env::args_os());
    // The helper is entered first: as the privileged process it must run nothing that the rest needs.
    if arguments.get(1).is_some_and(|word| word == "helper") {
        return warren_helper::run(arguments.iter().skip(2).map(|word| word.to_string_lossy().into_owned()));
    }
    let cli = Cli::parse_from(arguments);
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // A reader that has left (`warren status | head -1`) is no failure to speak of.
            if !is_broken_pipe(&error) {
                eprintln!("warren: {}", safe::lines(&format!("{error:#}")));
            }
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let socket = cli.socket;
    let done = match cli.command {
        Command::Control(Control { remote, command: ControlCommand::Serve(command) }) => {
            anyhow::ensure!(!remote.is_said(), "serve runs a server here; --server operates one that runs elsewhere");
            serve::control(command, socket)
        }
        Command::Relay(RelayCommand::Serve(command)) => relay::relay(command),
        Command::Node(NodeCommand::Run(command)) => serve::node(command, socket),
        Command::Quickstart(command) => quickstart::run(&command),
        Command::Join(command) => join::run(command, socket),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "warren", &mut std::io::stdout());
            Ok(())
        }
        // The answer is the exit code, too.
        Command::Policy(command) => return policy::run(&command, socket),
        Command::Helper(_) => anyhow::bail!("the helper is entered by its name as the first word: warren helper run"),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let done = runtime.block_on(ask(command, socket));
            // Reading standard input blocks a thread of the runtime; nobody waits for it.
            runtime.shutdown_background();
            done
        }
    };
    done.map(|()| ExitCode::SUCCESS)
}

async fn ask(command: Command, socket: Option<PathBuf>) -> Result<()> {
    if let Command::Control(Control { remote, command: ControlCommand::Operate(command) }) = command {
        if let Some(client) = remote.client(std::env::var("WARREN_API_KEY").ok())? {
            return control::run(&client, &command).await;
        }
        let path = socket.unwrap_or_else(|| places::find_socket("control.sock", "WARREN_CONTROL_SOCKET", "control"));
        return control::run(&warren_api::admin::Client::new(path), &command).await;
    }
    let named = socket.is_some();
    let path = socket.unwrap_or_else(|| places::find_socket("node.sock", "WARREN_SOCKET", "node"));
    let client = warren_api::local::Client::new(path);
    match command {
        Command::Up(command) => up::run(&client, &command).await,
        Command::Down => commands::down::run(&client).await,
        Command::Login(command) => login::login(&client, &command).await,
        Command::Logout => login::logout(&client).await,
        Command::Set(command) => set::run(&client, &command).await,
        Command::Switch(command) => switch::run(&client, &command).await,
        Command::Status(command) => status::run(&client, &command).await,
        Command::Ip(command) => commands::ip::run(&client, &command).await,
        Command::Ping(command) => ping::run(&client, &command).await,
        Command::Netcheck(command) => netcheck::run(&client, &command).await,
        Command::Whois(command) => whois::run(&client, &command).await,
        Command::Nc(command) => nc::run(&client, &command).await,
        Command::Get(command) => get::run(&client, &command).await,
        Command::Metrics(command) => metrics::run(&client, &command).await,
        Command::Bugreport(command) => bugreport::run(&client, &command).await,
        Command::Doctor(command) => doctor::run(&client, &command, named).await,
        Command::Version(command) => version::run(&client, &command).await,
        Command::Debug(Debug::Counters) => {
            println!("{}", client.counters().await?);
            Ok(())
        }
        // Those that need no daemon were taken in `run`.
        _ => Ok(()),
    }
}

/// Habits of the field: `-json` is `--json`, `-V` and `--version` are `version`.
fn rewrite(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.collect();
    // A secret helper's or a service's own words are not ours to touch, nor what follows `--`.
    let until = arguments.iter().position(|word| word == "--").unwrap_or(arguments.len());
    for word in arguments.iter_mut().take(until).skip(1) {
        let Some(text) = word.to_str() else { continue };
        let letters =
            text.strip_prefix('-').filter(|rest| rest.len() > 1 && rest.starts_with(|c: char| c.is_ascii_alphabetic()));
        if letters.is_some() && !text.contains('/') {
            *word = format!("-{text}").into();
        }
    }
    if let Some(first) = arguments.get_mut(1)
        && (first == "-V" || first == "--version")
    {
        *first = "version".into();
    }
    arguments
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some_and(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn the_table_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_shell_of_the_three_completes_subcommands() {
        use clap_complete::Shell::{Bash, Fish, Zsh};
        for shell in [Bash, Zsh, Fish] {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "warren", &mut script);
            let script = String::from_utf8(script).expect("text");
            assert!(script.contains("quickstart") && script.contains("netcheck"), "{shell}");
        }
    }

    #[test]
    fn flags_with_one_dash_are_understood() {
        let words = |line: &str| rewrite(line.split(' ').map(OsString::from));
        assert_eq!(words("warren status -json"), ["warren", "status", "--json"]);
        assert_eq!(words("warren ip -4"), ["warren", "ip", "-4"]);
        assert_eq!(words("warren ping -c 3 x"), ["warren", "ping", "-c", "3", "x"]);
        assert_eq!(words("warren -V"), ["warren", "version"]);
        assert_eq!(words("warren nc -- -x"), ["warren", "nc", "--", "-x"]);
    }
}
