//! Which services nodes offer to host: asked of them when they say that something about it has changed.
//!
//! ```text
//! host facts with another hash ──0.1 s──▶ ask ──answer──▶ known
//!                                          ▲ └─ silence: again after 1, 2, 4 … s, at last every 5 min
//!                                          └────────────┘
//! ```
//!
//! The hash is the node's own; what it is made of is nobody's business. An empty one means "none". control-protocol.md
//! §8.2, §8.11.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use warren_wire::{NodeId, VipServices};

use crate::register::cut;

/// More than anybody hosts on one machine; bounds a row.
const MOST_OFFERS: usize = 256;
/// As [`MOST_OFFERS`], for the port ranges of one service.
const MOST_PORTS: usize = 64;
/// Longest text that is kept, in bytes: `svc:` and a DNS label, or a hash in hex.
const LONGEST: usize = 128;

/// So that the node's stream is there to carry the question, and a burst of changes is one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const SECOND_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// What a node said when it was asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// The node's own, for the whole list; empty if it offers nothing.
    pub hash: String,
    /// By full name (`svc:…`).
    pub services: BTreeMap<String, Offer>,
}

/// One service that a node offers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Where the node answers, as it writes them.
    pub ports: Vec<String>,
    /// New connections may come. False: it is prepared, or drains.
    pub is_active: bool,
}

impl Offered {
    /// A node's answer, cut to what may be kept.
    pub fn from_answer(answer: &VipServices) -> Self {
        let is_kept = |text: &str| text.len() <= LONGEST && !text.chars().any(char::is_control);
        let kept = answer.vip_services.iter().filter(|service| is_kept(&service.name)).take(MOST_OFFERS);
        let offer = |ports: &[String], is_active| Offer {
            ports: ports.iter().filter(|text| is_kept(text)).take(MOST_PORTS).cloned().collect(),
            is_active,
        };
        Self {
            hash: cut(&answer.services_hash, LONGEST).to_owned(),
            services: kept.map(|service| (service.name.clone(), offer(&service.ports, service.active))).collect(),
        }
    }

    /// Full names of the services to which new connections may come.
    pub fn active(&self) -> impl Iterator<Item = &str> {
        self.services.iter().filter(|(_, offer)| offer.is_active).map(|(name, _)| name.as_str())
    }
}

/// Whom to ask, and when.
#[derive(Debug, Default)]
pub(crate) struct Questions {
    open: BTreeMap<NodeId, Question>,
    to_ask: VecDeque<NodeId>,
}

#[derive(Debug)]
struct Question {
    /// What the answer should be about.
    hash: String,
    at: Instant,
    then_after: Duration,
}

impl Questions {
    /// A node that is connected says this hash, and we know the list of that one. Returns whether it offers nothing any
    /// more, which needs no question.
    pub(crate) fn hear(&mut self, node: NodeId, said: &str, known: &str, now: Instant) -> bool {
        let said = cut(said, LONGEST);
        if said == known || said.is_empty() {
            self.open.remove(&node);
            return said != known;
        }
        // A question that is under way is answered with whatever is so then; another hash starts no further one, or a
        // node could have itself asked without end.
        let first = || Question { hash: String::new(), at: now + FIRST_WAIT, then_after: SECOND_WAIT };
        let question = self.open.entry(node).or_insert_with(first);
        if question.hash != said {
            said.clone_into(&mut question.hash);
        }
        false
    }

    /// Nobody is there to ask.
    pub(crate) fn forget(&mut self, node: NodeId) {
        self.open.remove(&node);
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        for (node, question) in self.open.iter_mut().filter(|(_, question)| question.at <= now) {
            self.to_ask.push_back(*node);
            question.at = now + question.then_after;
            question.then_after = (question.then_after * 2).min(LONGEST_WAIT);
        }
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.open.values().map(|question| question.at).min()
    }

    pub(crate) fn poll_ask(&mut self) -> Option<NodeId> {
        self.to_ask.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use warren_wire::VipService;

    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an Instant to count from")]
    fn a_new_hash_is_asked_about_until_the_answer_is_here() {
        let (mut questions, start) = (Questions::default(), Instant::now());
        let node = NodeId(3);
        let asked_at = |questions: &mut Questions, seconds: f64| {
            questions.handle_timeout(start + Duration::from_secs_f64(seconds));
            std::iter::from_fn(|| questions.poll_ask()).count()
        };
        assert!(!questions.hear(node, "h1", "", start));
        assert_eq!([0.0, 0.2, 1.0, 1.3, 3.0, 3.4].map(|at| asked_at(&mut questions, at)), [0, 1, 0, 1, 0, 1]);
        let again = questions.poll_timeout();
        assert!(!questions.hear(node, "h1", "", start + Duration::from_secs(4)));
        assert_eq!(questions.poll_timeout(), again, "the same hash again changes nothing");
        assert!(!questions.hear(node, "h2", "", start + Duration::from_secs(4)));
        assert_eq!(questions.poll_timeout(), again, "nor does another, while the answer is open");
        assert!(!questions.hear(node, "h1", "h1", start));
        assert_eq!(questions.poll_timeout(), None, "it is known");
        assert!(questions.hear(node, "", "h1", start), "an empty one needs no question");
    }

    #[test]
    fn an_answer_is_cut_to_what_may_be_kept() {
        let service = |name: &str| VipService { name: name.to_owned(), active: true, ..VipService::default() };
        let many = (0..1000).map(|number| service(&format!("svc:s{number}")));
        let bad = [service("svc:\u{7}bell"), service(&"x".repeat(200))];
        let answer =
            VipServices { vip_services: bad.into_iter().chain(many).collect(), services_hash: "h".repeat(999) };
        let offered = Offered::from_answer(&answer);
        assert_eq!((offered.services.len(), offered.hash.len()), (MOST_OFFERS, LONGEST));
        assert!(offered.active().all(|name| name.starts_with("svc:s")));
    }
}
