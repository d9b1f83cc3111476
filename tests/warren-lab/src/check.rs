//! A run: step after step, and after each the comparison of lab and model.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use crate::choices::Choices;
use crate::lab::Lab;
use crate::model::{Expect, Model, NodeNo};
use crate::rules::PORTS;
use crate::step::Step;

/// After any step everybody who can be told must know within this: the longest pause between two tries of a node to
/// reach its server is 30 s, after a broken stream was noticed.
const SETTLED_BY: Duration = Duration::from_secs(120);
/// A flow resumes within this, whatever happened: WireGuard takes 15 s to notice that a peer lost its keys.
const RESUMED_BY: Duration = Duration::from_secs(20);
/// A direct path that stops working is doubled by the relay when trust in it ends, after 6.5 s at the most.
const TAKEN_OVER_BY: Duration = Duration::from_millis(7500);
/// A pair that talks has found its way within this: three rounds of discovery.
const FOUND_BY: Duration = Duration::from_secs(20);
/// A datagram that should never arrive gets so long to do it.
const NEVER: Duration = Duration::from_secs(2);
/// Programs send so often.
const PAUSE: Duration = Duration::from_millis(500);
/// Pairs that are looked at after each step; at the end all are.
const PAIRS_A_STEP: usize = 3;

/// One run in so many writes down everything that could be logged, which takes time, and is searched for secrets.
const LOGGED: u64 = 8;

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub steps: BTreeMap<&'static str, u64>,
    /// Checks by what was expected.
    pub arrived: u64,
    pub never: u64,
    pub perhaps: u64,
    pub direct: u64,
    pub relayed: u64,
    /// Of the simulated clock.
    pub seconds: u64,
}

/// Where lab and model differ.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Everything that happened, the last step last.
    pub steps: Vec<Step>,
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, step) in self.steps.iter().enumerate() {
            writeln!(formatter, "{index:3} {step}")?;
        }
        write!(formatter, "    {}", self.what)
    }
}

/// Runs a scenario to its end.
///
/// # Errors
/// [`Failure`]: the cores did something else than the model says.
pub fn run(seed: u64, mut choices: Choices) -> Result<Outcome, Failure> {
    let mut run = Run::new(seed);
    while let Some(step) = run.model.legal_step(&mut choices) {
        run.step(&step)?;
        for _ in 0..PAIRS_A_STEP {
            run.check_a_pair(&mut choices)?;
        }
    }
    run.check_everybody()?;
    run.check_secrets()?;
    Ok(run.finish())
}

/// Runs given steps, and looks at every pair after each.
///
/// # Errors
/// As [`run`].
pub fn run_steps(steps: &[Step]) -> Result<Outcome, Failure> {
    let mut run = Run::new(0);
    for step in steps {
        run.step(step)?;
        run.check_everybody()?;
    }
    run.check_secrets()?;
    Ok(run.finish())
}

struct Run {
    model: Model,
    lab: Lab,
    steps: Vec<Step>,
    outcome: Outcome,
}

impl Run {
    fn new(seed: u64) -> Run {
        Run {
            model: Model::new(),
            lab: Lab::new(seed, seed.is_multiple_of(LOGGED)),
            steps: Vec::new(),
            outcome: Outcome::default(),
        }
    }

    fn finish(mut self) -> Outcome {
        self.outcome.seconds = self.lab.elapsed().as_secs();
        self.outcome
    }

    fn step(&mut self, step: &Step) -> Result<(), Failure> {
        *self.outcome.steps.entry(step.kind()).or_default() += 1;
        self.steps.push(step.clone());
        let direct_pairs = match step {
            Step::RelayDown => self.direct_pairs(),
            Step::BlockUdp(node) => self.direct_pairs().into_iter().filter(|(a, b)| a == node || b == node).collect(),
            _ => Vec::new(),
        };
        if let Step::BlockUdp(_) = step {
            for (a, b) in &direct_pairs {
                self.must_arrive(*a, *b, PORTS[0], "a direct path is there to be used")?;
            }
        }
        let begin = self.lab.elapsed();
        let machines = &self.model.machines;
        self.lab.apply(step, |node: NodeNo| machines[node.0].user);
        self.model.set_now(self.lab.elapsed());
        self.model.apply(step);
        self.settle()?;
        for (a, b) in direct_pairs {
            if *step == Step::RelayDown {
                self.must_arrive(a, b, PORTS[0], "a direct path does not need the relay")?;
            } else if self.model.expect(a, b, PORTS[0]) == Expect::Arrives {
                let left = (begin + TAKEN_OVER_BY).saturating_sub(self.lab.elapsed());
                self.must_arrive_within(left, a, b, PORTS[0], "the relay takes over as soon as trust has ended")?;
            }
        }
        if let Step::Talk(a, b) = step {
            self.check_path(*a, *b)?;
        }
        Ok(())
    }

    /// Whoever is told holds what the control server would say if it were asked now, but for what is under way.
    fn wait_for_maps(&mut self) -> Result<(), Failure> {
        let begin = self.lab.elapsed();
        loop {
            let is_stray = |node: &NodeNo| self.model.is_told(*node) && !self.model.is_near_the_end(*node);
            let mut strays = self.model.numbers().filter(is_stray);
            let stray = strays.find(|node| {
                let is_at_home = self.lab.home_is_told(*node) || !self.model.relay_is_up;
                !is_at_home || self.lab.holds_its_map(*node) == Some(false)
            });
            let Some(node) = stray else { return Ok(()) };
            if self.lab.elapsed() > begin + SETTLED_BY {
                let what = match (self.lab.home_is_told(node), self.lab.holds_its_map(node)) {
                    (_, Some(false)) => "holds another map than the control server would make for it",
                    (_, None) => "is unknown to the control server, or has no map",
                    (false, Some(true)) => "has told the control server of no home",
                    (true, Some(true)) => "is well by now",
                };
                return Err(self.failure(format!("{node:?} {what}; it says of itself: {}", self.lab.says(node))));
            }
            self.pass(Duration::from_millis(100));
        }
    }

    fn check_secrets(&mut self) -> Result<(), Failure> {
        let found = self.lab.check_secrets();
        found.map_err(|what| self.failure(what))
    }

    fn failure(&self, what: String) -> Failure {
        Failure { steps: self.steps.clone(), what }
    }

    fn pass(&mut self, time: Duration) {
        self.lab.run(time);
        self.model.set_now(self.lab.elapsed());
    }

    /// Waits until everybody who can be told knows exactly whom it may know.
    fn settle(&mut self) -> Result<(), Failure> {
        let begin = self.lab.elapsed();
        loop {
            self.model.set_now(self.lab.elapsed());
            self.model.tell();
            let wrong = self.wrong_peers();
            let Some((node, expected, found)) = wrong else { break };
            if self.lab.elapsed() > begin + SETTLED_BY {
                return Err(self.failure(format!("{node:?} should have peers {expected:?}, has {found:?}")));
            }
            self.pass(Duration::from_millis(100));
        }
        while let Some(node) = self.lab.clings_to_addresses(|node| self.model.reaches_control(node)) {
            if self.lab.elapsed() > begin + SETTLED_BY {
                return Err(self.failure(format!("{node:?} was deleted, could know it, and shows its addresses still")));
            }
            self.pass(Duration::from_millis(100));
        }
        // What changes no peer (a port of a rule) is told just as fast, but cannot be waited for.
        self.pass(Duration::from_secs(1));
        self.model.tell();
        self.wait_for_maps()?;
        self.model.settled();
        let checked = self.lab.check_addresses().and_then(|()| self.lab.check_counters());
        checked.map_err(|what| self.failure(what))
    }

    #[allow(clippy::type_complexity, reason = "one use, three words")]
    fn wrong_peers(&self) -> Option<(NodeNo, BTreeSet<NodeNo>, Option<BTreeSet<NodeNo>>)> {
        if self.model.numbers().any(|node| self.model.is_near_the_end(node)) {
            return None;
        }
        let told = self.model.numbers().filter(|node| self.model.is_told(*node));
        let compared = told.map(|node| {
            let expected: BTreeSet<NodeNo> = self.model.peers_of(node).into_iter().collect();
            (node, expected, self.lab.peers_of(node))
        });
        compared.into_iter().find(|(_, expected, found)| found.as_ref() != Some(expected))
    }

    fn check_a_pair(&mut self, choices: &mut Choices) -> Result<(), Failure> {
        let numbers: Vec<NodeNo> = self.model.numbers().collect();
        let (Some(a), Some(b)) = (choices.pick(&numbers), choices.pick(&numbers)) else { return Ok(()) };
        let port = choices.pick(&PORTS).unwrap_or(PORTS[0]);
        if a == b { Ok(()) } else { self.check_reach(a, b, port) }
    }

    fn check_everybody(&mut self) -> Result<(), Failure> {
        for (a, b) in self.pairs() {
            for port in PORTS {
                self.check_reach(a, b, port)?;
            }
        }
        Ok(())
    }

    fn pairs(&self) -> Vec<(NodeNo, NodeNo)> {
        let numbers: Vec<NodeNo> = self.model.numbers().collect();
        let pairs = numbers.iter().flat_map(|a| numbers.iter().map(|b| (*a, *b)));
        pairs.filter(|(a, b)| a != b).collect()
    }

    fn check_reach(&mut self, a: NodeNo, b: NodeNo, port: u16) -> Result<(), Failure> {
        match self.model.expect(a, b, port) {
            Expect::Arrives => self.must_arrive(a, b, port, "the model says that it arrives"),
            Expect::Perhaps => {
                self.outcome.perhaps += 1;
                self.lab.send(a, b, port);
                Ok(())
            }
            Expect::Never => {
                self.outcome.never += 1;
                let numbers = [self.lab.send(a, b, port), self.lab.send(a, b, port)];
                self.pass(NEVER);
                match numbers.into_iter().any(|number| self.lab.was_received(number)) {
                    true => Err(self.failure(format!("{a:?} must not reach port {port} of {b:?}, and does"))),
                    false => Ok(()),
                }
            }
        }
    }

    fn must_arrive(&mut self, a: NodeNo, b: NodeNo, port: u16, why: &str) -> Result<(), Failure> {
        self.must_arrive_within(RESUMED_BY, a, b, port, why)
    }

    fn must_arrive_within(
        &mut self,
        time: Duration,
        a: NodeNo,
        b: NodeNo,
        port: u16,
        why: &str,
    ) -> Result<(), Failure> {
        self.outcome.arrived += 1;
        let begin = self.lab.elapsed();
        let mut numbers = Vec::new();
        while self.lab.elapsed() < begin + time {
            numbers.push(self.lab.send(a, b, port));
            let limit = (self.lab.elapsed() + PAUSE).saturating_sub(self.lab.elapsed());
            let is_there = self.lab.run_until(limit, |lab| numbers.iter().any(|number| lab.was_echoed(*number)));
            self.model.set_now(self.lab.elapsed());
            if is_there {
                return Ok(());
            }
        }
        // Keys may have ended while we waited.
        if self.model.expect(a, b, port) != Expect::Arrives {
            return Ok(());
        }
        let path = self.lab.path(a, b).map(|path| (path.current, path.why));
        let received = numbers.iter().any(|number| self.lab.was_received(*number));
        Err(self
            .failure(format!("{a:?} to port {port} of {b:?} got no answer (received: {received}; {path:?}): {why}")))
    }

    /// Two talk until they have found their way, which must be the one that their networks allow.
    fn check_path(&mut self, a: NodeNo, b: NodeNo) -> Result<(), Failure> {
        let Some(port) = PORTS.into_iter().find(|port| self.model.expect(a, b, *port) == Expect::Arrives) else {
            return Ok(());
        };
        if !self.model.can_judge_path(a, b) {
            return self.must_arrive(a, b, port, "the model says that it arrives");
        }
        let is_possible = self.lab.direct_path_possible(a, b);
        let begin = self.lab.elapsed();
        let mut is_direct = false;
        while self.lab.elapsed() < begin + FOUND_BY && !is_direct {
            self.lab.send(a, b, port);
            self.pass(PAUSE);
            is_direct = self.is_direct(a, b);
        }
        if self.model.expect(a, b, port) != Expect::Arrives || self.model.is_near_the_end(a) {
            return Ok(());
        }
        *(if is_direct { &mut self.outcome.direct } else { &mut self.outcome.relayed }) += 1;
        if is_direct != is_possible {
            let why = self.lab.path(a, b).map(|path| path.why);
            let word = |is: bool| if is { "direct" } else { "relayed" };
            let what = format!("{a:?} and {b:?} should be {}, are {}: {why:?}", word(is_possible), word(is_direct));
            return Err(self.failure(what));
        }
        Ok(())
    }

    fn is_direct(&self, a: NodeNo, b: NodeNo) -> bool {
        let is_trusted = |a, b| self.lab.path(a, b).is_some_and(|path| path.trusted);
        is_trusted(a, b) && is_trusted(b, a)
    }

    fn direct_pairs(&self) -> Vec<(NodeNo, NodeNo)> {
        let pairs = self.pairs().into_iter();
        pairs
            .filter(|(a, b)| self.is_direct(*a, *b) && self.model.expect(*a, *b, PORTS[0]) == Expect::Arrives)
            .collect()
    }
}
