//! Asking questions of a policy: why a packet passes ([`explain`]), what a change changes ([`diff`]), what holds for every
//! tailnet ([`prove`]).

mod counterexample;
mod devices;
mod diff;
mod ends;
mod every;
mod explain;
mod holders;
mod missing;
mod nothing;
mod packet;
mod passages;
mod place;
mod prove;
mod space;
mod statement;
mod traffic;

pub use counterexample::Counterexample;
pub use diff::{Change, Party, diff};
pub use ends::{Imagined, addresses, imagine};
pub use explain::{Answer, Explanation, explain, explain_at};
pub use packet::Packet;
pub use place::RulePlace;
pub use prove::{Verdict, prove};
pub use statement::{Statement, parse_protocol, read_statements};
