//! Requests that stay open until a person has decided about their device.
//!
//! Anybody can open one, so there are only so many, and of each no more is kept than its question. Who is asked to go
//! hears "try again later"; clients do so by themselves.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use warren_control::{Actor, Answer, AuthId, Command, What};
use warren_crypto::MachinePublic;
use warren_ip::{heaviest, source_of};

use crate::registry::{CommandError, Job};

/// A registration is decided again this often even if nothing was settled: its link may have run out, or its client may
/// have left.
const AGAIN: Duration = Duration::from_secs(30);

/// A client has one; another may hang for a while after its connection broke.
const MOST_PER_MACHINE: usize = 2;

/// More than there can be links, which a device may wait for twice.
const MOST: usize = 2048;

/// See the module.
#[derive(Default)]
pub(crate) struct HeldRequests {
    /// The oldest first.
    entries: Vec<Held>,
}

struct Held {
    id: AuthId,
    machine: MachinePublic,
    source: Option<IpAddr>,
    command: Command,
    reply: oneshot::Sender<Result<Answer, CommandError>>,
    again_at: Instant,
}

impl HeldRequests {
    /// Holds a registration that waits for `id`. One whose client has left, or that is none, is dropped.
    pub(crate) fn hold(&mut self, id: AuthId, job: Job, now: Instant) {
        let Job { command: Command { actor, what }, reply } = job;
        let (machine, node_key) = match what {
            What::Register { machine, request } => (machine, request.node_key),
            What::FollowUp { machine, node_key, .. } => (machine, node_key),
            _ => return,
        };
        if reply.is_closed() {
            return;
        }
        let source = match &actor {
            Actor::Machine { from, .. } => from.map(source_of),
            _ => None,
        };
        self.entries.retain(|held| !held.reply.is_closed());
        self.make_room(MOST_PER_MACHINE, |held| held.machine == machine);
        if self.entries.len() >= MOST
            && let Some(most) = heaviest(self.entries.iter().map(|held| held.source))
        {
            let of_the_source = self.entries.iter().filter(|held| held.source == most).count();
            self.make_room(of_the_source, |held| held.source == most);
        }
        let command = Command { actor, what: What::FollowUp { machine, node_key, id } };
        self.entries.push(Held { id, machine, source, command, reply, again_at: now + AGAIN });
    }

    /// When the next is to be decided again.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.entries.iter().map(|held| held.again_at).min()
    }

    /// These were decided: whoever waits for one asks again at once.
    pub(crate) fn settled(&mut self, ids: &[AuthId], now: Instant) {
        for held in self.entries.iter_mut().filter(|held| ids.contains(&held.id)) {
            held.again_at = now;
        }
    }

    /// Those that are to be decided again by now and whose clients are still there.
    pub(crate) fn take_due(&mut self, now: Instant) -> Vec<Job> {
        let due = self.entries.extract_if(.., |held| held.again_at <= now);
        due.filter(|held| !held.reply.is_closed())
            .map(|held| Job { command: held.command, reply: held.reply })
            .collect()
    }

    /// Sends the oldest of those that match away until fewer than `most` are left.
    fn make_room(&mut self, most: usize, matches: impl Fn(&Held) -> bool) {
        let there = self.entries.iter().filter(|held| matches(held)).count();
        let mut too_many = (there + 1).saturating_sub(most);
        let going = self.entries.extract_if(.., |held| {
            let goes = too_many > 0 && matches(held);
            too_many -= usize::from(goes);
            goes
        });
        for held in going {
            let why = "too many requests wait here for a person's decision".to_owned();
            let _ = held.reply.send(Err(CommandError::Unavailable(why))); // it may have left
        }
    }
}

#[cfg(test)]
mod tests {
    use warren_crypto::{MachineSecret, NodePublic};

    use super::*;

    type Waits = oneshot::Receiver<Result<Answer, CommandError>>;

    fn wait(held: &mut HeldRequests, machine: u32, from: [u8; 4], now: Instant) -> Waits {
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&machine.to_be_bytes());
        let machine = MachineSecret::from_seed(seed).public();
        let id = AuthId::from_bytes([1; 16]);
        let actor = Actor::Machine { key: machine, from: Some(from.into()) };
        let what = What::FollowUp { machine, node_key: NodePublic::ZERO, id };
        let (reply, waits) = oneshot::channel();
        held.hold(id, Job { command: Command { actor, what }, reply }, now);
        waits
    }

    fn is_sent_away(waits: &mut Waits) -> bool {
        matches!(waits.try_recv(), Ok(Err(CommandError::Unavailable(_))))
    }

    #[test]
    fn a_machine_has_two_and_the_oldest_is_sent_away() {
        let (mut held, now) = (HeldRequests::default(), clock());
        let mut waits: Vec<Waits> = (0..3).map(|_| wait(&mut held, 1, [192, 0, 2, 1], now)).collect();
        let other = wait(&mut held, 2, [192, 0, 2, 1], now);
        let gone: Vec<bool> = waits.iter_mut().map(is_sent_away).collect();
        assert_eq!(gone, [true, false, false]);
        drop((waits, other));
        let _third = wait(&mut held, 3, [192, 0, 2, 1], now);
        assert_eq!(held.entries.len(), 1, "who left does not count");
    }

    #[test]
    fn a_source_that_fills_the_table_pushes_out_only_its_own() {
        let (mut held, now) = (HeldRequests::default(), clock());
        let mut patient = wait(&mut held, 0, [192, 0, 2, 1], now);
        let hoard: Vec<Waits> = (1..3000).map(|machine| wait(&mut held, machine, [192, 0, 2, 9], now)).collect();
        assert_eq!(held.entries.len(), MOST);
        assert!(!is_sent_away(&mut patient));
        held.settled(&[AuthId::from_bytes([1; 16])], now);
        assert_eq!(held.take_due(now).len(), MOST);
        drop(hoard);
    }

    fn clock() -> Instant {
        crate::clock::now()
    }
}
