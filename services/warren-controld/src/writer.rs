//! The one writer: it decides what is asked, commits it, makes it true, and only then answers.
//!
//! ```text
//! wait ─▶ gather ─▶ decide on an overlay ─▶ commit ─▶ apply ─▶ publish one picture ─▶ answer ─▶ wait
//!                                             └─ the database says no: drop the overlay, answer "try again later"
//! ```
//!
//! Commands that come while a batch is under way make up the next batch, so a wave of joins pays one flush a batch.
//! Presence goes the same way but for the commit.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use warren_control::{Actor, Answer, AuthId, Batch, Command, Control, Event, Refusal, RegisterAnswer, SoftRow, Staged};
use warren_crypto::Random;
use warren_store::{CommitError, Store};

use crate::clock;
use crate::errands::Errand;
use crate::held::HeldRequests;
use crate::registry::{CommandError, Input, Job, WriterEnds};

/// At most forty pictures a second: every session looks at every one.
const BETWEEN_PICTURES: Duration = Duration::from_millis(25);

/// For each that looks, so much longer: a wave of changes is told in fewer, larger messages the more there are to tell.
const FOR_EACH_SESSION: Duration = Duration::from_micros(20);

/// The same after a picture in which who sees whom may have changed, which every session takes some fifty microseconds
/// to find out: a wave of joins shall not keep a core busy with telling everybody of ever smaller parts of it.
const FOR_EACH_LOOK_AROUND: Duration = Duration::from_micros(200);

/// A picture that took long to make is not made again before this many times as long: a wave of joins under a large
/// policy must not keep the writer from everything else.
const FOR_ITS_COST: u32 = 4;

/// But never longer than this.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// Most inputs in one batch, so that answers do not wait for an endless wave.
const LARGEST_BATCH: usize = 1024;

/// Soft facts go to the disk this long after they were said.
const SOFT_DELAY: Duration = Duration::from_secs(1);

/// Why the writer stopped before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// Somebody else wrote to the database; our memory is no longer its fold.
    #[error("another process changed the control database")]
    NotAlone,
    /// A batch did not fit onto the state that it was decided on.
    #[error(transparent)]
    Stale(#[from] warren_control::Stale),
}

pub(crate) struct Writer {
    control: Control,
    store: Store,
    random: Random,
    ends: WriterEnds,
    /// Registrations without an answer yet.
    held: HeldRequests,
    /// Soft facts that the database has not taken yet.
    unsaved: Vec<SoftRow>,
    save_soft_at: Option<Instant>,
    /// When the next picture may be made.
    picture_due: Instant,
}

/// What one turn of the loop has gathered.
#[derive(Default)]
struct Turn {
    jobs: Vec<Job>,
    ready: Vec<oneshot::Sender<()>>,
    count: usize,
}

impl Writer {
    pub(crate) fn new(control: Control, store: Store, random: Random, ends: WriterEnds) -> Self {
        Self {
            control,
            store,
            random,
            ends,
            held: HeldRequests::default(),
            unsaved: Vec::new(),
            save_soft_at: None,
            picture_due: clock::now(),
        }
    }

    /// Works until `shutdown` turns true, then saves what is soft and closes the database. Dropping the future instead
    /// is what a crash is: nothing that was answered is lost.
    ///
    /// # Errors
    /// [`WriterError`]: going on would answer from a wrong state.
    pub(crate) async fn run(mut self, mut shutdown: watch::Receiver<bool>) -> Result<(), WriterError> {
        loop {
            let mut turn = Turn::default();
            let deadline = self.deadline();
            tokio::select! {
                () = clock::told(&mut shutdown) => break,
                Some((input, _)) = self.ends.inputs.recv() => self.take(input, &mut turn).await,
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            // Never in the way of the first after a pause; under load, the longer wait makes the larger batch.
            if self.picture_due > clock::now() {
                tokio::time::sleep_until(self.picture_due.into()).await;
            }
            while turn.count < LARGEST_BATCH
                && let Ok((input, _)) = self.ends.inputs.try_recv()
            {
                self.take(input, &mut turn).await;
            }
            self.finish(turn).await?;
        }
        self.save_soft().await;
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "the control database was not closed cleanly");
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let others = self.held.deadline().into_iter().chain(self.save_soft_at);
        others.fold(self.control.poll_timeout(), Instant::min)
    }

    async fn take(&mut self, input: Input, turn: &mut Turn) {
        turn.count += 1;
        match input {
            Input::Command(job) => turn.jobs.push(job),
            Input::Heard { node, channel, request } => {
                self.control.handle_map_request(node, channel, &request, clock::now());
                self.soft_changed();
            }
            Input::Stream { node, channel, request, ready } => {
                let now = clock::now();
                self.control.handle_stream_started(node, channel, now);
                self.control.handle_map_request(node, channel, &request, now);
                self.soft_changed();
                turn.ready.push(ready);
            }
            Input::Ended { node, channel } => {
                self.control.handle_stream_ended(node, channel, clock::now(), clock::wall());
                self.soft_changed();
            }
            Input::Alive(node) => self.control.handle_probe_answer(node),
            Input::Offered { node, offered } => {
                self.control.handle_offered(node, offered, clock::now());
                self.soft_changed();
            }
            Input::ExtraRecords(records) => self.control.set_extra_records(records),
            Input::Relays(map) => self.control.set_relay_map(*map),
            Input::Check { reply } => {
                let works = self.store.check().await;
                if let Err(error) = &works {
                    tracing::error!(%error, "the control database does not answer");
                }
                let _ = reply.send(works.is_ok());
            }
        }
    }

    fn soft_changed(&mut self) {
        if self.save_soft_at.is_none() {
            self.save_soft_at = Some(clock::now() + SOFT_DELAY);
        }
    }

    /// Decides, commits, applies, publishes, answers: in this order.
    async fn finish(&mut self, turn: Turn) -> Result<(), WriterError> {
        let now = clock::now();
        if self.control.poll_timeout() <= now {
            self.control.handle_timeout(now, clock::wall());
            self.soft_changed();
        }
        let mut jobs = turn.jobs;
        while let Some(command) = self.control.poll_ask() {
            jobs.push(Job { command, reply: oneshot::channel().0 });
        }
        jobs.extend(self.held.take_due(now));
        let mut answers = Vec::new();
        let mut settled = Vec::new();
        if !jobs.is_empty() {
            (answers, settled) = self.decide_and_commit(jobs).await?;
        }
        let begun = clock::now();
        if let Some(picture) = self.control.publish() {
            let for_each = if picture.may_change_sight() { FOR_EACH_LOOK_AROUND } else { FOR_EACH_SESSION };
            self.ends.snapshots.send_replace(picture);
            let made = clock::now();
            self.picture_due = made + pause_after(made - begun, for_each, self.ends.snapshots.receiver_count());
        }
        self.ends.pending.send_if_modified(|known| {
            let pending = self.control.pending();
            let is_new = !known.is_same(&pending);
            *known = pending;
            is_new
        });
        while let Some(node) = self.control.poll_probe() {
            let _ = self.ends.errands.send(Errand::SignOfLife(node)); // nobody asks any more while the server stops
        }
        while let Some(node) = self.control.poll_question() {
            let _ = self.ends.errands.send(Errand::Services(node)); // as above
        }
        for (job, answer) in answers {
            match answer {
                Ok(Answer::Register(RegisterAnswer::Wait(id))) => self.held.hold(id, job, clock::now()),
                answer => drop(job.reply.send(answer)), // whoever asked may have left
            }
        }
        // Those who wait for what was just settled ask again, in the next batch.
        self.held.settled(&settled, now);
        for ready in turn.ready {
            let _ = ready.send(());
        }
        if self.save_soft_at.is_some_and(|at| at <= now) {
            self.save_soft().await;
        }
        Ok(())
    }

    async fn decide_and_commit(
        &mut self,
        jobs: Vec<Job>,
    ) -> Result<(Vec<(Job, Result<Answer, CommandError>)>, Vec<AuthId>), WriterError> {
        let (batch, answers) = self.decide(&jobs);
        let committed = self.store.commit(&batch).await;
        if let Err(CommitError::Stale { .. }) = committed {
            return Err(WriterError::NotAlone);
        }
        let settled = match &committed {
            Ok(()) => batch.events.iter().filter_map(settled_by).collect(),
            Err(_) => Vec::new(),
        };
        let answers: Vec<_> = match committed {
            Ok(()) => {
                self.control.apply(batch, clock::now())?;
                answers
            }
            Err(error) => {
                tracing::error!(%error, commands = jobs.len(), "a batch was not committed");
                for (job, answer) in jobs.iter().zip(&answers) {
                    if answer.is_ok() && job.command.actor == Actor::Server {
                        self.control.handle_not_committed(job.command.clone());
                    }
                }
                let unavailable = |answer| match answer {
                    Ok(_) => Err(CommandError::Unavailable(error.to_string())),
                    refused => refused,
                };
                answers.into_iter().map(unavailable).collect()
            }
        };
        Ok((jobs.into_iter().zip(answers).collect(), settled))
    }

    /// Decides all jobs on one overlay. A command that makes the rules panic is refused, and the others are decided
    /// anew without it.
    fn decide(&mut self, jobs: &[Job]) -> (Batch, Vec<Result<Answer, CommandError>>) {
        let wall = clock::wall();
        let mut bad = vec![false; jobs.len()];
        loop {
            let mut staged = Staged::begin(&self.control);
            let mut answers = Vec::with_capacity(jobs.len());
            let mut panicked = None;
            for (at, job) in jobs.iter().enumerate() {
                if bad[at] {
                    answers.push(Err(CommandError::Unavailable("internal error".to_owned())));
                    continue;
                }
                let command = Command::clone(&job.command);
                let random = &mut self.random;
                // The overlay is thrown away after a panic, and the generator has no state that could be half done.
                match catch_unwind(AssertUnwindSafe(|| staged.decide(command, wall, random))) {
                    Ok(answer) => answers.push(answer.map_err(|refusal: Refusal| CommandError::Refused(refusal))),
                    Err(_) => {
                        tracing::error!(action = job.command.what.action(), "deciding a command panicked");
                        panicked = Some(at);
                        break;
                    }
                }
            }
            match panicked {
                Some(at) => bad[at] = true,
                None => return (staged.finish(), answers),
            }
        }
    }

    async fn save_soft(&mut self) {
        self.save_soft_at = None;
        self.unsaved.extend(self.control.take_soft());
        if self.unsaved.is_empty() {
            return;
        }
        // Of a node that was said twice, the later row is written last and stays.
        match self.store.save_soft(&self.unsaved).await {
            Ok(()) => self.unsaved.clear(),
            Err(error) => {
                tracing::warn!(%error, "what nodes said about themselves was not saved; it will be tried again");
                let mut newest = std::collections::BTreeMap::new();
                newest.extend(self.unsaved.drain(..).map(|row| (row.node, row)));
                self.unsaved = newest.into_values().collect();
                self.save_soft_at = Some(clock::now() + 10 * SOFT_DELAY);
            }
        }
    }
}

/// How long after a picture that took `cost` the next may be made, with so many who look at it.
fn pause_after(cost: Duration, for_each: Duration, sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions).unwrap_or(u32::MAX);
    let wished = BETWEEN_PICTURES.max(for_each.saturating_mul(sessions)).max(cost.saturating_mul(FOR_ITS_COST));
    wished.min(LONGEST_PAUSE)
}

fn settled_by(event: &Event) -> Option<AuthId> {
    match event {
        Event::RegistrationSettled(id) => Some(*id),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_come_slower_the_more_they_cost_and_the_more_look_but_they_come() {
        let milliseconds = Duration::from_millis;
        let pause = |cost, sessions| pause_after(milliseconds(cost), FOR_EACH_SESSION, sessions);
        assert_eq!(pause(1, 10), milliseconds(25));
        assert_eq!(pause(1, 5_000), milliseconds(100));
        assert_eq!(pause(50, 5_000), milliseconds(200));
        assert_eq!(pause(900, usize::MAX), LONGEST_PAUSE);
        assert_eq!(pause_after(milliseconds(1), FOR_EACH_LOOK_AROUND, 1_000), milliseconds(200));
    }
}
