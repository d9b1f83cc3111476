//! The host's side of a node with a real interface: a thread that owns the helper connection.
//!
//! The helper's answers may take long (ten thousand routes), so the packet thread never waits for them: it hands over
//! plans and gets a TUN device back. When the helper dies and comes back, the interface is opened and configured anew.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use warren_node::HostPlan;
use warren_os::helper::{Client, ClientError};
use warren_os::{OsConfig, Tun};

use crate::event_loop::Input;
use crate::inbox::Inbox;

/// Where the helper is.
#[derive(Debug)]
pub enum HelperDoor {
    /// A Unix socket; the helper may be restarted behind it.
    Socket(PathBuf),
    /// A socket that the parent process made.
    Inherited(OwnedFd),
}

/// How often a helper that went away is looked for, and a living one is checked on.
const PATIENCE: Duration = Duration::from_secs(1);

/// The keeper's handle, held by the packet thread. Dropping it ends the thread and with it the helper connection, so
/// that the helper undoes everything.
pub(crate) struct HostKeeper {
    plans: Option<mpsc::Sender<HostPlan>>,
    thread: Option<JoinHandle<()>>,
}

impl HostKeeper {
    /// Takes over a live connection; `door` is for finding the helper again.
    pub(crate) fn start(client: Client, door: Option<PathBuf>, inbox: Inbox<Input>) -> std::io::Result<Self> {
        let (plans, wanted) = mpsc::channel();
        let mut keeper = Keeper { client: Some(client), door, inbox, plan: None, has_tun: false, retry: false };
        let thread = thread::Builder::new().name("warren-host".into()).spawn(move || keeper.run(&wanted))?;
        Ok(Self { plans: Some(plans), thread: Some(thread) })
    }

    /// Asks for the host to be so. The latest plan wins.
    pub(crate) fn apply(&self, plan: HostPlan) {
        if let Some(plans) = &self.plans {
            // The channel is unbounded but holds one small plan per map change, and the thread skips all but the last.
            let _ = plans.send(plan);
        }
    }
}

impl Drop for HostKeeper {
    fn drop(&mut self) {
        self.plans = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Opens the connection that [`HostKeeper::start`] takes over.
pub(crate) fn connect(door: HelperDoor) -> Result<(Client, Option<PathBuf>), ClientError> {
    match door {
        HelperDoor::Socket(path) => Ok((Client::connect(&path)?, Some(path))),
        HelperDoor::Inherited(fd) => Ok((Client::from_fd(fd)?, None)),
    }
}

struct Keeper {
    client: Option<Client>,
    door: Option<PathBuf>,
    inbox: Inbox<Input>,
    plan: Option<HostPlan>,
    has_tun: bool,
    /// The last try failed.
    retry: bool,
}

impl Keeper {
    fn run(&mut self, wanted: &mpsc::Receiver<HostPlan>) {
        loop {
            let fresh = match wanted.recv_timeout(PATIENCE) {
                Ok(plan) => {
                    // Whole states: what came in between does not matter.
                    self.plan = Some(wanted.try_iter().last().unwrap_or(plan));
                    true
                }
                Err(mpsc::RecvTimeoutError::Timeout) => false,
                Err(mpsc::RecvTimeoutError::Disconnected) => {
                    // In order: the interface goes before the connection, so that nothing is in doubt when we return.
                    if let Some(client) = &mut self.client {
                        let _ = client.undo();
                    }
                    return;
                }
            };
            let lost = self.notice_loss();
            if fresh || lost || self.retry || self.client.is_none() {
                self.make_it_so();
            }
        }
    }

    /// A helper never speaks unasked, so a readable connection is a closed one.
    fn notice_loss(&mut self) -> bool {
        let Some(client) = &self.client else { return false };
        let mut poll = libc::pollfd { fd: client.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one pollfd that outlives the call.
        let lost = unsafe { libc::poll(&raw mut poll, 1, 0) } == 1;
        if lost {
            self.lose("the helper has gone");
        }
        lost
    }

    fn lose(&mut self, why: &str) {
        self.client = None;
        self.has_tun = false;
        self.tell(Input::HostTrouble(Some(why.to_owned())));
    }

    fn tell(&self, input: Input) {
        // A stopped node has nobody to tell; the plans' channel ends next.
        let _ = self.inbox.send_blocking(input);
    }

    fn make_it_so(&mut self) {
        if self.client.is_none()
            && let Some(path) = &self.door
        {
            self.client = Client::connect(path).ok();
        }
        let (Some(client), Some(plan)) = (&mut self.client, &self.plan) else { return };
        let result = configure(client, plan, &mut self.has_tun);
        self.retry = result.is_err();
        match result {
            Ok((tun, skipped)) => {
                self.tell(Input::HostTrouble((!skipped.is_empty()).then(|| skipped.join("; "))));
                if let Some(tun) = tun {
                    self.tell(Input::Tun(tun));
                }
            }
            Err(ClientError::Connection(_)) => self.lose("the helper has gone"),
            Err(error) => {
                let text = crate::control_link::with_causes(&error);
                self.tell(Input::HostTrouble(Some(text)));
            }
        }
    }
}

/// Brings the interface up as planned (with its device, when it is new), or takes it away.
fn configure(
    client: &mut Client,
    plan: &HostPlan,
    has_tun: &mut bool,
) -> Result<(Option<Tun>, Vec<String>), ClientError> {
    if !plan.up {
        client.undo()?;
        *has_tun = false;
        return Ok((None, Vec::new()));
    }
    let mut opened = None;
    if !*has_tun {
        opened = Some(client.open_tun(plan.mtu)?.tun);
        *has_tun = true;
    }
    let config = OsConfig {
        interface: client.interface().to_owned(),
        mtu: plan.mtu,
        up: true,
        addrs: plan.addrs.clone(),
        routes: plan.routes.clone(),
    };
    match client.configure(config) {
        Ok(applied) => Ok((opened, applied.skipped)),
        Err(error) => {
            // Without its configuration the device is of no use; the next try opens it anew.
            *has_tun = false;
            Err(error)
        }
    }
}
