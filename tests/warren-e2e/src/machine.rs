//! One machine of the laboratory: a network namespace with a folder of its own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A network namespace. Dropping it takes its processes first, then the namespace.
pub struct Machine {
    name: String,
    folder: PathBuf,
}

impl Machine {
    /// Makes the namespace `name`, loopback up, with an empty folder below `folder`.
    pub fn new(name: &str, folder: &Path) -> Machine {
        prepare();
        let machine = Machine { name: name.to_string(), folder: folder.join(name) };
        std::fs::create_dir_all(&machine.folder).expect("a folder for the machine");
        shell(&format!("ip netns add {name} && ip -n {name} link set lo up"));
        machine.sysctl("net.ipv6.conf.all.accept_dad=0");
        machine.sysctl("net.ipv6.conf.default.accept_dad=0");
        machine
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
        Process { child: command.spawn().unwrap_or_else(|error| panic!("start {name}: {error}")), log }
    }

    /// Our command line, run to its end.
    pub fn warren(&self, args: &[&str]) -> Output {
        self.command(crate::executable("warren")).args(args).output().expect("warren starts")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
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

/// A program that stays until it is stopped or dropped.
pub struct Process {
    child: Child,
    log: PathBuf,
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
    pub fn stop_by(mut self, signal: Signal) -> std::process::ExitStatus {
        self.signal(signal);
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            assert!(Instant::now() < end, "did not end within 10 s of {signal}; its log:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
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
