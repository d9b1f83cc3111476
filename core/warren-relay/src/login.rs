//! How a client proves its node key: it seals a JSON note to the relay's key, and the relay answers sealed.
//!
//! ```text
//! ClientInfo payload:  | node key 32 | nonce 24 | tag 16 | JSON … |
//! ServerInfo payload:               | nonce 24 | tag 16 | JSON … |
//! ```

use serde::{Deserialize, Serialize};
use warren_crypto::{NodePublic, NodeSecret, Random, RelayPublic, RelaySecret, SharedBox};

use crate::frame;

/// Version of the protocol that both ends speak: received packets carry their sender's key.
pub const PROTOCOL_VERSION: u32 = 2;
/// Longest client info that a relay reads. A real one has under 300 bytes; the stock relay takes 256 KiB, which ten thousand
/// strangers could make it hold.
pub const MAX_CLIENT_INFO_BYTES: usize = 4096;
/// Longest server info that a client reads.
pub const MAX_SERVER_INFO_BYTES: usize = 64 * 1024;

/// What a client says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClientInfo {
    pub version: u32,
    /// Stock relays want the key present, whatever it says.
    #[serde(rename = "CanAckPings")]
    pub can_ack_pings: bool,
    #[serde(rename = "IsProber", skip_serializing_if = "std::ops::Not::not")]
    pub is_prober: bool,
}

/// What a relay says about itself. Non-zero rates ask the client to hold itself back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServerInfo {
    pub version: u32,
    #[serde(rename = "TokenBucketBytesPerSecond", skip_serializing_if = "is_zero")]
    pub bytes_per_second: u64,
    #[serde(rename = "TokenBucketBytesBurst", skip_serializing_if = "is_zero")]
    pub burst_bytes: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Why a login came to nothing. The other side is told nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoginError {
    #[error("a login frame that is too short")]
    Short,
    #[error("sealed by somebody who does not hold that key")]
    Forged,
    #[error("a login note that is not the JSON expected")]
    Json,
}

/// The client's frame, and the box that the answer will be sealed with.
///
/// # Errors
/// [`LoginError::Forged`] if the relay's key is no key.
pub fn encode_client_info(
    secret: &NodeSecret,
    relay: &RelayPublic,
    info: &ClientInfo,
    random: &mut Random,
) -> Result<(Vec<u8>, SharedBox), LoginError> {
    let shared = SharedBox::relay_client(secret, relay).ok_or(LoginError::Forged)?;
    let json = serde_json::to_vec(info).map_err(|_| LoginError::Json)?;
    let sealed = shared.seal_with_nonce(random, &json);
    Ok((frame::encode(frame::CLIENT_INFO, &[secret.public().as_bytes(), &sealed]), shared))
}

/// The relay's reading of a client info payload: opening the box is the only proof of the node key.
///
/// # Errors
/// [`LoginError`]
pub fn decode_client_info(
    relay: &RelaySecret,
    payload: &[u8],
) -> Result<(NodePublic, ClientInfo, SharedBox), LoginError> {
    let (key, sealed) = frame::split_key(payload).ok_or(LoginError::Short)?;
    let shared = SharedBox::relay_server(relay, &key).ok_or(LoginError::Forged)?;
    let json = shared.open(sealed).ok_or(LoginError::Forged)?;
    let info = serde_json::from_slice(&json).map_err(|_| LoginError::Json)?;
    Ok((key, info, shared))
}

pub fn encode_server_info(shared: &SharedBox, info: &ServerInfo, random: &mut Random) -> Vec<u8> {
    // A struct of numbers always serialises.
    let json = serde_json::to_vec(info).unwrap_or_default();
    frame::encode(frame::SERVER_INFO, &[&shared.seal_with_nonce(random, &json)])
}

/// # Errors
/// [`LoginError`]
pub fn decode_server_info(shared: &SharedBox, payload: &[u8]) -> Result<ServerInfo, LoginError> {
    let json = shared.open(payload).ok_or(LoginError::Forged)?;
    serde_json::from_slice(&json).map_err(|_| LoginError::Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_reads_who_the_client_is_and_the_client_reads_the_answer() {
        let mut random = Random::from_seed([1; 32]);
        let (node, relay) = (NodeSecret::generate(&mut random), RelaySecret::generate(&mut random));
        let info = ClientInfo { version: 2, can_ack_pings: true, is_prober: false };
        let (frame, client_box) = encode_client_info(&node, &relay.public(), &info, &mut random).unwrap();
        let (key, seen, server_box) = decode_client_info(&relay, &frame[frame::HEADER_BYTES..]).unwrap();
        assert_eq!((key, seen), (node.public(), info));
        let answer = ServerInfo { version: 2, ..Default::default() };
        let frame = encode_server_info(&server_box, &answer, &mut random);
        assert_eq!(decode_server_info(&client_box, &frame[frame::HEADER_BYTES..]), Ok(answer));
    }

    #[test]
    fn nobody_logs_in_with_the_key_of_another() {
        let mut random = Random::from_seed([2; 32]);
        let (node, relay) = (NodeSecret::generate(&mut random), RelaySecret::generate(&mut random));
        let (mut frame, _) = encode_client_info(&node, &relay.public(), &ClientInfo::default(), &mut random).unwrap();
        let victim = NodeSecret::generate(&mut random).public();
        frame[5..37].copy_from_slice(victim.as_bytes());
        assert_eq!(decode_client_info(&relay, &frame[5..]).unwrap_err(), LoginError::Forged);
        assert_eq!(decode_client_info(&relay, &[0; 100]).unwrap_err(), LoginError::Forged);
        assert_eq!(decode_client_info(&relay, &[0; 31]).unwrap_err(), LoginError::Short);
    }

    #[test]
    fn the_note_of_a_client_always_says_whether_it_answers_pings() {
        assert_eq!(serde_json::to_string(&ClientInfo::default()).unwrap(), r#"{"version":0,"CanAckPings":false}"#);
        assert_eq!(
            serde_json::to_string(&ServerInfo { version: 2, ..Default::default() }).unwrap(),
            r#"{"version":2}"#
        );
    }
}
