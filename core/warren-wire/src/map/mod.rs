//! The map poll: what a node asks, and the stream of answers.

mod request;
mod response;

pub use request::{Endpoint, EndpointKind, MapRequest};
pub use response::{
    ClientVersion, ControlDialPlan, ControlIpCandidate, Debug, DisplayAction, DisplayMessage, MapResponse, PeerChange,
    PingRequest, PingResponse, TkaInfo,
};
