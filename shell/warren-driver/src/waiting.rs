//! Orders that found tokio's side busy, in order.
//!
//! A slow disk may hold it for long, so what a newer order makes void does not wait beside it: of the node's state and of the
//! wish for relays only the latest counts, the same question is asked once, and nothing is asked of the control server that
//! is to be left. Of the rest the node has a few under way at a time.

use std::collections::VecDeque;

use tokio::sync::mpsc;

use crate::supervisor::Order;

#[derive(Default)]
pub(crate) struct WaitingOrders(VecDeque<Order>);

impl WaitingOrders {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts an order behind the others, or into the place of the one that it makes void: what was to happen after that
    /// one still does.
    pub(crate) fn push(&mut self, order: Order) {
        if matches!(order, Order::CloseControl) {
            self.0.retain(|older| !matches!(older, Order::Control(..) | Order::BreakControl | Order::CloseControl));
        }
        match self.0.iter_mut().find(|older| is_void(older, &order)) {
            Some(older) => *older = order,
            None => self.0.push_back(order),
        }
    }

    /// Hands over as many as find room.
    pub(crate) fn flush(&mut self, orders: &mpsc::Sender<Order>) {
        while let Some(order) = self.0.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(order)) = orders.try_send(order) {
                self.0.push_front(order);
                return;
            }
        }
    }

    /// What is to be remembered beyond a stop.
    pub(crate) fn into_last(self) -> impl Iterator<Item = Order> {
        self.0.into_iter().filter(|order| matches!(order, Order::Persist(_)))
    }
}

/// Whether `newer` is all that counts of the two.
fn is_void(older: &Order, newer: &Order) -> bool {
    match (older, newer) {
        (Order::Resolve(older), Order::Resolve(newer)) => older == newer,
        (Order::ProbeHttps(older, _), Order::ProbeHttps(newer, _)) => older == newer,
        (Order::Persist(_), Order::Persist(_))
        | (Order::Relays(_), Order::Relays(_))
        | (Order::BreakControl, Order::BreakControl) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use warren_crypto::MachineSecret;
    use warren_node::{
        Action, ControlRequest, ControlTarget, DEFAULT_MTU, Node, NodeSetup, NodeState, OsFacts, RequestId,
    };
    use warren_wire::{RegionId, RelayRegion};

    use super::*;
    use crate::clock::Clock;

    /// The state of a new node, whose keys depend on the seed.
    fn state(seed: u8) -> Box<NodeState> {
        let setup = NodeSetup {
            state: None,
            seed: [seed; 32],
            facts: OsFacts::default(),
            userspace: true,
            mtu: DEFAULT_MTU,
            delivery: Default::default(),
        };
        let mut node = Node::new(setup, Instant::now(), Clock::wall());
        let states = std::iter::from_fn(|| node.poll_action()).find_map(|action| match action {
            Action::Persist(state) => Some(state),
            _ => None,
        });
        states.expect("a new node is to be remembered")
    }

    #[test]
    fn a_newer_state_takes_the_place_of_the_one_that_waits_and_nothing_overtakes_it() {
        let mut waiting = WaitingOrders::default();
        let (orders, mut taken) = mpsc::channel(1);
        let (older, latest) = (state(1), state(2));
        waiting.push(Order::Resolve("before".into()));
        for _ in 0..1000 {
            waiting.push(Order::Persist(older.clone()));
            waiting.push(Order::BreakControl);
        }
        waiting.push(Order::Persist(latest.clone()));
        waiting.push(Order::Resolve("after".into()));
        let mut seen = Vec::new();
        while !waiting.is_empty() {
            waiting.flush(&orders);
            seen.push(taken.try_recv().expect("an order"));
        }
        let [Order::Resolve(before), Order::Persist(saved), Order::BreakControl, Order::Resolve(after)] = &seen[..]
        else {
            panic!("{} orders", seen.len());
        };
        assert_eq!((before.as_str(), after.as_str()), ("before", "after"));
        assert_eq!(saved.to_file_text_with_secrets().as_bytes(), latest.to_file_text_with_secrets().as_bytes());
    }
    #[test]
    fn behind_a_disk_that_hangs_the_same_questions_are_asked_once_and_a_server_is_left_once() {
        let mut waiting = WaitingOrders::default();
        let target = ControlTarget {
            url: "http://192.0.2.1".parse().unwrap(),
            machine: MachineSecret::from_seed([1; 32]),
            server_key: None,
        };
        for round in 0..1000 {
            for region in [1, 2] {
                waiting.push(Order::Resolve(format!("relay{region}")));
                waiting.push(Order::ProbeHttps(RegionId(region), RelayRegion::default()));
            }
            waiting.push(Order::CloseControl);
            let request = ControlRequest::Stream(Box::default());
            waiting.push(Order::Control(RequestId(round), request, target.clone()));
        }
        let [questions @ .., Order::CloseControl, Order::Control(RequestId(999), ..)] = waiting.0.make_contiguous()
        else {
            panic!("{} orders", waiting.0.len());
        };
        assert_eq!(questions.len(), 4);
    }
}
