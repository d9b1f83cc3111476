//! The JSON of the control protocol. What was read must survive being written and read again.

use serde::Serialize;
use serde::de::DeserializeOwned;
use warren_crypto::UnixTime;
use warren_wire::netmap::{NetMap, equivalent, fold, full};
use warren_wire::{
    CapabilityVersion, DerpAdmitRequest, EarlyNoise, MapRequest, MapResponse, RegisterRequest, RegisterResponse,
    ServerKeys,
};

/// Writing what was read gives a text that reads as the same.
fn reads_again<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> bool {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else { return false };
    let text = serde_json::to_string(&value).expect("what was read can be written");
    let again: T = serde_json::from_str(&text).expect("what was written can be read");
    assert_eq!(serde_json::to_string(&again).expect("as before"), text);
    true
}

/// A map stream, one message a line: folded as far as it goes, the map can be told to another as a whole.
pub fn map_responses(bytes: &[u8]) -> bool {
    let mut map = None;
    for line in bytes.split(|byte| *byte == b'\n') {
        reads_again::<MapResponse>(line);
        let Ok(message) = serde_json::from_slice::<MapResponse>(line) else { continue };
        let _ = fold(&mut map, message, UnixTime::from_secs(1_800_000_000));
    }
    let Some(map) = map else { return false };
    let version = CapabilityVersion(130);
    let mut copy: Option<NetMap> = None;
    fold(&mut copy, full(&map, version), UnixTime::from_secs(1_800_000_000)).expect("a full map names its node");
    assert!(copy.is_some_and(|copy| equivalent(&copy, &map.as_seen_by(version))));
    true
}

pub fn map_request(bytes: &[u8]) -> bool {
    reads_again::<MapRequest>(bytes)
}

pub fn register_request(bytes: &[u8]) -> bool {
    reads_again::<RegisterRequest>(bytes)
}

pub fn register_response(bytes: &[u8]) -> bool {
    reads_again::<RegisterResponse>(bytes)
}

/// What a server says of itself, and what a relay asks it.
pub fn server_keys(bytes: &[u8]) -> bool {
    reads_again::<ServerKeys>(bytes) | reads_again::<EarlyNoise>(bytes) | reads_again::<DerpAdmitRequest>(bytes)
}
