//! What can happen to a network.

use std::fmt;
use std::time::Duration;

use crate::control_host::Crash;
use crate::model::NodeNo;
use crate::rules::Rules;

/// Where a machine is plugged in. There are two routers of each kind, so some machines are neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Public,
    /// Public addresses behind a stateful firewall.
    Firewall,
    /// One mapping for all destinations; filters by address and port.
    PortCone,
    /// A mapping a destination, always with the inner port.
    Linux,
    /// A mapping a destination, each with another port.
    Symmetric,
    /// No UDP.
    Blocked,
}

impl Place {
    pub const ALL: [Place; 6] =
        [Place::Public, Place::Firewall, Place::PortCone, Place::Linux, Place::Symmetric, Place::Blocked];
}

/// One thing that happens.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// A new machine joins with a one-off key of this user; perhaps the control server dies of it, and comes back.
    Join {
        user: usize,
        place: Place,
        v4: bool,
        v6: bool,
        crash: Option<Crash>,
    },
    /// A person logs out.
    Leave(NodeNo),
    /// … or in again with a join key, which gives the node a new key if it was out.
    Renew(NodeNo),
    /// A person signs in anew while all is well, and an operator approves: the node gets a new key.
    Rotate(NodeNo),
    /// The daemon is killed.
    Kill(NodeNo),
    /// … and started from what it had written.
    Start(NodeNo),
    /// The machine's disco key is another one after a restart.
    NewDisco(NodeNo),
    /// The machine is plugged in somewhere else.
    Roam(NodeNo, Place),
    /// The machine's cable is cut.
    Cut(NodeNo),
    Heal(NodeNo),
    /// A firewall on the machine lets no UDP through any more.
    BlockUdp(NodeNo),
    AllowUdp(NodeNo),
    /// The machine's wall clock is set, by so many hours.
    SetClock(NodeNo, i8),
    ControlDown,
    ControlUp,
    RelayDown,
    RelayUp,
    /// An operator ends a node's key.
    Expire(NodeNo),
    /// … forgets a node that is attached; perhaps the control server dies of it, and the operator asks again.
    Delete {
        node: NodeNo,
        crash: Option<Crash>,
    },
    /// … gives a node to another user; perhaps with the same misfortune.
    Move {
        node: NodeNo,
        user: usize,
        crash: Option<Crash>,
    },
    Policy(Rules),
    /// Time passes.
    Wait(Duration),
    /// These two talk, and it is looked at by which way.
    Talk(NodeNo, NodeNo),
}

impl Step {
    /// For counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Step::Join { crash: None, .. } => "join",
            Step::Join { crash: Some(_), .. } => "join (control crashes)",
            Step::Leave(_) => "leave",
            Step::Renew(_) => "renew",
            Step::Rotate(_) => "rotate (key rotation)",
            Step::Kill(_) => "kill",
            Step::Start(_) => "start",
            Step::NewDisco(_) => "new disco key",
            Step::Roam(..) => "roam",
            Step::Cut(_) => "cut (partition)",
            Step::Heal(_) => "heal",
            Step::BlockUdp(_) => "block udp",
            Step::AllowUdp(_) => "allow udp",
            Step::SetClock(..) => "set clock (clock jump)",
            Step::ControlDown => "control down",
            Step::ControlUp => "control up",
            Step::RelayDown => "relay down (relay death)",
            Step::RelayUp => "relay up",
            Step::Expire(_) => "expire",
            Step::Delete { crash: None, .. } => "delete",
            Step::Delete { crash: Some(_), .. } => "delete (control crashes)",
            Step::Move { crash: None, .. } => "move",
            Step::Move { crash: Some(_), .. } => "move (control crashes)",
            Step::Policy(_) => "policy change",
            Step::Wait(_) => "wait",
            Step::Talk(..) => "talk",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self:?}")
    }
}
