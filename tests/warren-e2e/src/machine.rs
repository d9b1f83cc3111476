//! One machine of the laboratory: a network namespace with a folder of its own.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A network namespace. Dropping it checks that nothing of ours is left (see [`Machine::check_left_as_found`]), then takes
/// it away.
pub struct Machine {
    name: String,
    folder: PathBuf,
    /// Environment variables of all that runs here.
    variables: Vec<(String, String)>,
    /// As it was before anything of ours ran.
    found: RefCell<Host>,
}

impl Machine {
    /// Makes the namespace `name`, loopback up, with an empty folder below `folder`.
    pub fn new(name: &str, folder: &Path) -> Machine {
        prepare();
        let machine = Machine {
            name: name.to_string(),
            folder: folder.join(name),
            variables: Vec::new(),
            found: RefCell::default(),
        };
        std::fs::create_dir_all(&machine.folder).expect("a folder for the machine");
        shell(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        machine.sysctl("net.ipv6.conf.all.accept_dad=0");
        machine.sysctl("net.ipv6.conf.default.accept_dad=0");
        machine.note_as_found();
        machine
    }

    /// Gives an environment variable to everything that is started here from now on.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Machine {
        self.variables.push((name.to_string(), value.to_string()));
        self
    }

    /// What is here now is not ours: to be called once the machine is built.
    pub fn note_as_found(&self) {
        *self.found.borrow_mut() = Host::of(self);
    }

    /// Asserts that this machine is as it was found: no interface, rule, route, table, socket file or process of ours.
    ///
    /// Processes that were started here must have been dropped, which stops them in order. What a process that was killed
    /// left behind may be cleared away by `warren doctor`, and nothing else may be left even then.
    #[track_caller]
    pub fn check_left_as_found(&self) {
        let mut ours = String::new();
        let end = Instant::now() + Duration::from_secs(10);
        // A program that was told to stop by another one may still be on its way out.
        while Instant::now() < end {
            ours = self.sh(&format!(
                "for p in $(ip netns pids {}); do cat /proc/$p/comm 2>/dev/null; done | grep warren || true",
                self.name
            ));
            if ours.is_empty() {
                break;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(ours.is_empty(), "processes of ours are left on {}: {ours}", self.name);
        if self.was_killed() {
            for socket in self.sockets() {
                self.warren(&["--socket", &socket, "doctor"]);
            }
        }
        let left = self.sockets();
        assert!(left.is_empty(), "sockets are left on {}: {left:?}", self.name);
        assert_eq!(Host::of(self), *self.found.borrow(), "{} is not as it was found", self.name);
    }

    /// Unix sockets below the machine's folder.
    pub fn sockets(&self) -> Vec<String> {
        self.sh(&format!("find {} -type s", self.folder.display())).lines().map(str::to_string).collect()
    }

    fn was_killed(&self) -> bool {
        self.folder.join(KILLED).exists()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn sysctl(&self, setting: &str) {
        self.sh(&format!("sysctl -qw {setting}"));
    }

    /// A program that will run on this machine.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.as_ref());
        command.env("HOME", &self.folder).env("XDG_STATE_HOME", self.folder.join("state"));
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.env_remove("XDG_RUNTIME_DIR").current_dir(&self.folder).stdin(Stdio::null());
        command
    }

    /// Runs a line of shell here; panics with its output if it fails.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        let mut command = self.command("sh");
        checked(command.args(["-c", line]), line)
    }

    /// Runs a line of shell here, whatever comes of it.
    pub fn try_sh(&self, line: &str) -> Output {
        self.command("sh").args(["-c", line]).output().expect("sh starts")
    }

    /// Starts a program that stays; its output goes to `<name>.log` in the machine's folder.
    #[track_caller]
    pub fn start(&self, name: &str, program: impl AsRef<Path>, args: &[&str]) -> Process {
        let log = self.folder.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let mut command = self.command(program);
        command.args(args).stdout(file.try_clone().expect("a second handle")).stderr(file);
        // A group of its own: what the program starts is stopped with it.
        let child = command.process_group(0).spawn().unwrap_or_else(|error| panic!("start {name}: {error}"));
        Process { child, log, folder: self.folder.clone() }
    }

    /// Our command line, run to its end.
    pub fn warren(&self, args: &[&str]) -> Output {
        self.command(crate::executable("warren")).args(args).output().expect("warren starts")
    }
}

/// Says that a process of the machine was killed, so that it could not clear up after itself.
const KILLED: &str = ".killed";

/// What a host would notice of us.
#[derive(Debug, Default, PartialEq, Eq)]
struct Host {
    interfaces: String,
    rules: String,
    /// Routes by interfaces that are not the machine's own; those change with its addresses, which tests do change.
    routes: String,
    tables: String,
}

impl Host {
    fn of(machine: &Machine) -> Host {
        let sorted = |line: &str| machine.sh(&format!("{line} | sort"));
        Host {
            interfaces: sorted("ip -o link show | awk '{print $2}' | sed 's/@.*//; s/:$//'"),
            rules: sorted("(ip -4 rule show; ip -6 rule show) 2>/dev/null"),
            routes: sorted(
                "(ip -4 route show table all; ip -6 route show table all) 2>/dev/null | grep -v -E 'dev (lo|eth0|wan|lan|br0|p[a-z0-9]+)( |$)'",
            ),
            tables: sorted("nft list tables 2>/dev/null"),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if !std::thread::panicking() && self.folder.exists() {
            self.check_left_as_found();
        }
        let pids = Command::new("ip").args(["netns", "pids", &self.name]).output();
        for pid in
            pids.map(|out| String::from_utf8_lossy(&out.stdout).into_owned()).unwrap_or_default().split_whitespace()
        {
            if let Ok(pid) = pid.parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A program that stays until it is stopped or dropped; dropping it stops it in order.
pub struct Process {
    child: Child,
    log: PathBuf,
    /// The machine's.
    folder: PathBuf,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends the signal; does not wait.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
    }

    /// SIGTERM, and at most ten seconds to end. Returns the exit status.
    #[track_caller]
    pub fn stop(self) -> std::process::ExitStatus {
        self.stop_by(Signal::SIGTERM)
    }

    /// The same by another signal.
    #[track_caller]
    pub fn stop_by(self, signal: Signal) -> std::process::ExitStatus {
        self.signal(signal);
        self.ends_within(Duration::from_secs(10))
    }

    /// Waits until it has ended by itself; returns the exit status.
    #[track_caller]
    pub fn ends_within(mut self, limit: Duration) -> std::process::ExitStatus {
        let end = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            assert!(Instant::now() < end, "did not end within {limit:?}; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(mut self) {
        self.kill();
    }

    fn kill(&mut self) {
        let _ = std::fs::write(self.folder.join(KILLED), "");
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// SIGKILL to all at one moment, and waits until they are gone.
pub fn kill9_all(processes: impl IntoIterator<Item = Process>) {
    let mut processes: Vec<Process> = processes.into_iter().collect();
    for process in &processes {
        process.signal(Signal::SIGKILL);
    }
    processes.iter_mut().for_each(Process::kill);
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.is_running() {
            return;
        }
        let signal = if std::thread::panicking() { Signal::SIGKILL } else { Signal::SIGTERM };
        let _ = kill(Pid::from_raw(-self.child.id().cast_signed()), signal);
        let end = Instant::now() + Duration::from_secs(10);
        while self.is_running() {
            if Instant::now() >= end {
                self.kill();
                assert!(std::thread::panicking(), "did not end within 10 s of SIGTERM; its log:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Runs a line of shell outside any machine of the laboratory.
#[track_caller]
pub fn shell(line: &str) -> String {
    checked(Command::new("sh").args(["-c", line]), line)
}

#[track_caller]
fn checked(command: &mut Command, shown: &str) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{shown}: {}\n{text}{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}

/// `ip netns` keeps its names below /run; the laboratory gets one of its own.
fn prepare() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        assert!(crate::inside(), "the laboratory is started by cargo xtask test");
        // Process numbers begin anew in here, and some programs (faketime) name shared memory after theirs.
        shell("mount -t tmpfs tmpfs /run && mkdir -p /run/netns && mount -t tmpfs tmpfs /dev/shm && ip link set lo up");
    });
}
