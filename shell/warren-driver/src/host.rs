//! The host's side of a node with a real interface: a thread that owns the helper connection.
//!
//! The helper's answers may take long (ten thousand routes), so the packet thread never waits for them: it hands over
//! plans and gets a TUN device back. When the helper dies and comes back, or somebody else takes the interface away, it is
//! opened and configured anew; when somebody else sets it down or takes an address or a route from it, these are set again.
//! The loss of the guard is no news of the routing tables, so it is put in place now and then, unasked.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::info;
use warren_node::HostPlan;
use warren_os::helper::{Client, ClientError};
use warren_os::{OsConfig, Tun};

use crate::control_link::with_causes;
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

/// How often the guard is put in place anew: whoever loads another firewall takes all tables away, and nobody tells us.
const GUARD_EVERY: Duration = Duration::from_secs(10);

/// The keeper's handle, held by the packet thread. Dropping it ends the thread and with it the helper connection, so
/// that the helper undoes everything.
pub(crate) struct HostKeeper {
    wishes: Option<mpsc::Sender<Wish>>,
    thread: Option<JoinHandle<()>>,
}

/// What the packet thread tells the keeper.
enum Wish {
    Plan(HostPlan),
    /// Others changed something: see that the host is still as planned.
    Look,
    /// The device of this number was taken away.
    Gone(TunNumber),
}

/// Which of the devices that the keeper opened, one after the other. The news that one has gone may come when there is
/// another already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct TunNumber(u64);

impl HostKeeper {
    /// Takes over a live connection; `door` is for finding the helper again.
    pub(crate) fn start(client: Client, door: Option<PathBuf>, inbox: Inbox<Input>) -> std::io::Result<Self> {
        let (wishes, wanted) = mpsc::channel();
        let mut keeper = Keeper::new(Some(client), door, inbox);
        let thread = thread::Builder::new().name("warren-host".into()).spawn(move || keeper.run(&wanted))?;
        Ok(Self { wishes: Some(wishes), thread: Some(thread) })
    }

    /// Asks for the host to be so. The latest plan wins.
    pub(crate) fn apply(&self, plan: HostPlan) {
        self.tell(Wish::Plan(plan));
    }

    /// Asks to see whether the host is still as planned.
    pub(crate) fn look(&self) {
        self.tell(Wish::Look);
    }

    /// Says that a device was taken away, and asks for another.
    pub(crate) fn gone(&self, tun: TunNumber) {
        self.tell(Wish::Gone(tun));
    }

    fn tell(&self, wish: Wish) {
        if let Some(wishes) = &self.wishes {
            // The channel is unbounded but holds one small wish per change, and the thread skips all but the last.
            let _ = wishes.send(wish);
        }
    }
}

impl Drop for HostKeeper {
    fn drop(&mut self) {
        self.wishes = None;
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
    /// The device that stands, as far as we know.
    tun: Option<TunNumber>,
    /// The last that was opened.
    opened: TunNumber,
    /// The last try failed.
    retry: bool,
    /// Others changed something since we last looked.
    look: bool,
    /// When the host was last made as planned: whoever keeps changing it is answered at leisure.
    made_so: Option<Instant>,
}

impl Keeper {
    /// Without a plan yet.
    fn new(client: Option<Client>, door: Option<PathBuf>, inbox: Inbox<Input>) -> Self {
        Self {
            client,
            door,
            inbox,
            plan: None,
            tun: None,
            opened: TunNumber::default(),
            retry: false,
            look: false,
            made_so: None,
        }
    }

    fn run(&mut self, wanted: &mpsc::Receiver<Wish>) {
        loop {
            let fresh = match wanted.recv_timeout(PATIENCE) {
                Ok(first) => {
                    let mut fresh = false;
                    for wish in std::iter::once(first).chain(wanted.try_iter()) {
                        fresh |= self.hear(wish);
                    }
                    fresh
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
            let look =
                (self.look && self.is_made_for(PATIENCE)) || (self.is_guarded() && self.is_made_for(GUARD_EVERY));
            if fresh || lost || look || self.retry || self.client.is_none() {
                self.look = false;
                self.make_it_so();
                self.made_so = Some(Instant::now());
            }
        }
    }

    /// Whether nothing was done to the host for so long.
    fn is_made_for(&self, time: Duration) -> bool {
        self.made_so.is_none_or(|when| when.elapsed() >= time)
    }

    fn is_guarded(&self) -> bool {
        self.plan.as_ref().is_some_and(|plan| plan.up && plan.guard)
    }

    /// Takes a wish in; true when there is something to do at once.
    fn hear(&mut self, wish: Wish) -> bool {
        match wish {
            Wish::Plan(plan) => {
                // Whole states: what came in between does not matter.
                self.plan = Some(plan);
                true
            }
            Wish::Look => {
                // Our own taking away is news as well, but leaves nothing to look after.
                self.look |= self.tun.is_some();
                false
            }
            Wish::Gone(tun) => {
                if self.tun == Some(tun) {
                    info!("the interface was taken away; opening another");
                    self.tun = None;
                    self.look = true;
                }
                false
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
        self.tun = None;
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
            match Client::connect(path) {
                Ok(client) => self.client = Some(client),
                // Nobody there, which was said when it went.
                Err(ClientError::Connection(_)) => {}
                Err(error) => self.tell(Input::HostTrouble(Some(with_causes(&error)))),
            }
        }
        let (Some(client), Some(plan)) = (&mut self.client, &self.plan) else { return };
        let result = configure(client, plan, &mut self.tun, &mut self.opened);
        self.retry = result.is_err();
        match result {
            Ok((tun, skipped)) => {
                self.tell(Input::HostTrouble((!skipped.is_empty()).then(|| skipped.join("; "))));
                if let Some(tun) = tun {
                    self.tell(Input::Tun(tun, self.opened));
                }
            }
            Err(ClientError::Connection(_)) => self.lose("the helper has gone"),
            Err(error) => {
                self.tell(Input::HostTrouble(Some(with_causes(&error))));
            }
        }
    }
}

/// Brings the interface up as planned (with its device, when it is new), or takes it away.
fn configure(
    client: &mut Client,
    plan: &HostPlan,
    standing: &mut Option<TunNumber>,
    opened: &mut TunNumber,
) -> Result<(Option<Tun>, Vec<String>), ClientError> {
    if !plan.up {
        // Whatever comes of it, the device is of no use any more.
        *standing = None;
        client.undo()?;
        return Ok((None, Vec::new()));
    }
    let mut new = None;
    if standing.is_none() {
        new = Some(client.open_tun(plan.mtu)?.tun);
        opened.0 += 1;
        *standing = Some(*opened);
    }
    let config = OsConfig {
        interface: client.interface().to_owned(),
        mtu: plan.mtu,
        up: true,
        addrs: plan.addrs.clone(),
        routes: plan.routes.clone(),
        guard: plan.guard,
    };
    match client.configure(config) {
        Ok(applied) => Ok((new, applied.skipped)),
        Err(error) => {
            // Without its configuration the device is of no use; the next try opens it anew.
            *standing = None;
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;

    use super::*;
    use crate::inbox::inbox;

    #[test]
    fn a_helper_of_another_version_is_told_from_one_that_is_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("helper.sock");
        let (inbox, mut outlet) = inbox(4).unwrap();
        let mut keeper = Keeper::new(None, Some(path.clone()), inbox);
        keeper.make_it_so();
        assert!(outlet.take().is_none(), "nobody there is no news");

        let listener = UnixListener::bind(&path).unwrap();
        let other = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut length = [0; 4];
            stream.read_exact(&mut length).unwrap();
            stream.read_exact(&mut vec![0; u32::from_le_bytes(length) as usize]).unwrap();
            let hello = br#"{"Hello":{"version":9999,"interface":"warren0"}}"#;
            stream.write_all(&[&(hello.len() as u32).to_le_bytes(), &hello[..]].concat()).unwrap();
        });
        keeper.make_it_so();
        other.join().unwrap();
        let Some(Input::HostTrouble(Some(text))) = outlet.take() else { panic!("no word of the version") };
        assert!(text.contains("9999"), "{text}");
    }
}
