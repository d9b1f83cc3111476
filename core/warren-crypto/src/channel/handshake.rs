//! Both ends of the handshake, one struct per step: a message out of order has nobody to take it.

use zeroize::Zeroizing;

use crate::channel::record::Channel;
use crate::keys::{MachinePublic, MachineSecret};
use crate::noise::Symmetric;
use crate::seed::Random;

pub const INITIATION_BYTES: usize = 101;
pub const RESPONSE_BYTES: usize = 51;

const TYPE_INITIATION: u8 = 1;
const TYPE_RESPONSE: u8 = 2;
const TYPE_ERROR: u8 = 3;

/// Why no channel came to be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    #[error("wrong size of a handshake message: {0} bytes")]
    Size(usize),
    #[error("unexpected type of handshake message: {0}")]
    Type(u8),
    #[error("wrong length stated in a handshake message: {0}")]
    Length(u16),
    /// Unauthenticated, so only a hint for a person.
    #[error("the server refused the handshake: {0}")]
    Refused(String),
    #[error("the other side does not hold the key that it should, or the message was changed on its way")]
    Forged,
}

fn prologue(version: u16) -> Vec<u8> {
    format!("Tailscale Control Protocol v{version}").into_bytes()
}

/// A client that has sent its initiation.
pub struct Initiator {
    symmetric: Symmetric,
    machine: MachineSecret,
    ephemeral: MachineSecret,
    version: u16,
}

impl Initiator {
    /// Begins a handshake as `machine` with the server whose key is `server`; `version` is the capability version.
    /// Returns the initiation to send.
    ///
    /// # Errors
    /// [`HandshakeError::Forged`] if the server's key is no key.
    pub fn new(
        machine: &MachineSecret,
        server: &MachinePublic,
        version: u16,
        random: &mut Random,
    ) -> Result<(Initiator, [u8; INITIATION_BYTES]), HandshakeError> {
        Self::with_ephemeral(machine, server, version, MachineSecret::generate(random))
    }

    fn with_ephemeral(
        machine: &MachineSecret,
        server: &MachinePublic,
        version: u16,
        ephemeral: MachineSecret,
    ) -> Result<(Initiator, [u8; INITIATION_BYTES]), HandshakeError> {
        let mut symmetric = Symmetric::new(&prologue(version), server.as_bytes());
        let mut message = Vec::with_capacity(INITIATION_BYTES);
        message.extend_from_slice(&version.to_be_bytes());
        message.push(TYPE_INITIATION);
        message.extend_from_slice(&96_u16.to_be_bytes());
        let public = *ephemeral.public().as_bytes();
        message.extend_from_slice(&public);
        symmetric.mix_hash(&public);
        symmetric.mix_key(&*ephemeral.agree(server).ok_or(HandshakeError::Forged)?);
        symmetric.seal(machine.public().as_bytes(), &mut message);
        symmetric.mix_key(&*machine.agree(server).ok_or(HandshakeError::Forged)?);
        symmetric.seal(&[], &mut message);
        let size = message.len();
        let message = message.try_into().map_err(|_| HandshakeError::Size(size))?;
        Ok((Initiator { symmetric, machine: machine.clone(), ephemeral, version }, message))
    }

    /// Takes the server's answer, exactly [`RESPONSE_BYTES`] or an error message.
    ///
    /// # Errors
    /// [`HandshakeError`]; the connection is of no more use then.
    pub fn finish(mut self, response: &[u8]) -> Result<Channel, HandshakeError> {
        if response.first() == Some(&TYPE_ERROR) {
            let text = String::from_utf8_lossy(response.get(3..).unwrap_or_default());
            let shown = text.chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(HandshakeError::Refused(shown));
        }
        let response: &[u8; RESPONSE_BYTES] = response.try_into().map_err(|_| HandshakeError::Size(response.len()))?;
        check_header(response[0], TYPE_RESPONSE, &response[1..3], 48)?;
        let mut ephemeral = [0; 32];
        ephemeral.copy_from_slice(&response[3..35]);
        self.symmetric.mix_hash(&ephemeral);
        self.symmetric.mix_key(&*self.ephemeral.agree_raw(&ephemeral).ok_or(HandshakeError::Forged)?);
        self.symmetric.mix_key(&*self.machine.agree_raw(&ephemeral).ok_or(HandshakeError::Forged)?);
        self.symmetric.open(&response[35..]).ok_or(HandshakeError::Forged)?;
        let keys = self.symmetric.split();
        Channel::new(keys.initiator_to_responder, keys.responder_to_initiator, self.version)
            .ok_or(HandshakeError::Forged)
    }
}

/// A server's side, which is one step: an initiation comes, a response goes, the channel stands.
pub struct Responder;

/// What an accepted initiation gives.
pub struct Accepted {
    pub channel: Channel,
    /// Who the client proved to be.
    pub machine: MachinePublic,
    /// The capability version that the client stated, and that the handshake covers.
    pub version: u16,
    pub response: [u8; RESPONSE_BYTES],
}

impl Responder {
    /// # Errors
    /// [`HandshakeError`]: nothing is known about the client then, and nothing may be kept.
    pub fn accept(server: &MachineSecret, initiation: &[u8], random: &mut Random) -> Result<Accepted, HandshakeError> {
        Self::with_ephemeral(server, initiation, &Zeroizing::new(random.bytes()))
    }

    fn with_ephemeral(server: &MachineSecret, initiation: &[u8], seed: &[u8; 32]) -> Result<Accepted, HandshakeError> {
        let message: &[u8; INITIATION_BYTES] =
            initiation.try_into().map_err(|_| HandshakeError::Size(initiation.len()))?;
        let version = u16::from_be_bytes([message[0], message[1]]);
        check_header(message[2], TYPE_INITIATION, &message[3..5], 96)?;
        let own = server.public();
        let mut symmetric = Symmetric::new(&prologue(version), own.as_bytes());
        let mut theirs = [0; 32];
        theirs.copy_from_slice(&message[5..37]);
        symmetric.mix_hash(&theirs);
        symmetric.mix_key(&*server.agree_raw(&theirs).ok_or(HandshakeError::Forged)?);
        let opened = symmetric.open(&message[37..85]).ok_or(HandshakeError::Forged)?;
        let machine: [u8; 32] = opened.as_slice().try_into().map_err(|_| HandshakeError::Forged)?;
        let machine = MachinePublic::from_bytes(machine);
        symmetric.mix_key(&*server.agree(&machine).ok_or(HandshakeError::Forged)?);
        symmetric.open(&message[85..]).ok_or(HandshakeError::Forged)?;

        let ephemeral = MachineSecret::from_seed(*seed);
        let mut response = Vec::with_capacity(RESPONSE_BYTES);
        response.push(TYPE_RESPONSE);
        response.extend_from_slice(&48_u16.to_be_bytes());
        let public = *ephemeral.public().as_bytes();
        response.extend_from_slice(&public);
        symmetric.mix_hash(&public);
        symmetric.mix_key(&*ephemeral.agree_raw(&theirs).ok_or(HandshakeError::Forged)?);
        symmetric.mix_key(&*ephemeral.agree(&machine).ok_or(HandshakeError::Forged)?);
        symmetric.seal(&[], &mut response);
        let size = response.len();
        let response = response.try_into().map_err(|_| HandshakeError::Size(size))?;
        let keys = symmetric.split();
        let channel = Channel::new(keys.responder_to_initiator, keys.initiator_to_responder, version)
            .ok_or(HandshakeError::Forged)?;
        Ok(Accepted { channel, machine, version, response })
    }
}

fn check_header(kind: u8, expected: u8, length: &[u8], bytes: u16) -> Result<(), HandshakeError> {
    if kind != expected {
        return Err(HandshakeError::Type(kind));
    }
    let stated = u16::from_be_bytes([length[0], length[1]]);
    if stated == bytes { Ok(()) } else { Err(HandshakeError::Length(stated)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // Vectors: control protocol reference, appendix A.1 (protocol version 113).
    const INITIATION: &str = "00710100605dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22e7e00fca1f8146f01b0be0912230bc1a3ddb89daa2a5b15f9a771c0f98278223a2dae08fc4479d020ebea65294c09b53d7e336d500db5fb0475d4b944b930a23";
    const RESPONSE: &str =
        "020030ac01b2209e86354fb853237b5de0f4fab13c7fcbf433a61c019369617fecf10b97360d496b1885a0dd15c3f806be8465";

    fn secret(byte: u8) -> MachineSecret {
        MachineSecret::from_seed([byte; 32])
    }

    #[test]
    fn the_published_handshake_and_records_come_out() {
        let (initiator, message) = Initiator::with_ephemeral(&secret(2), &secret(1).public(), 113, secret(3)).unwrap();
        assert_eq!(hex::encode(message), INITIATION);
        let accepted = Responder::with_ephemeral(&secret(1), &message, &[4; 32]).unwrap();
        assert_eq!(hex::encode(accepted.response), RESPONSE);
        assert_eq!((accepted.machine, accepted.version), (secret(2).public(), 113));
        let (mut client, _) = initiator.finish(&accepted.response).unwrap().split();
        let (mut server, _) = accepted.channel.split();
        let record = |sealer: &mut crate::channel::Sealer, plain: &[u8]| {
            let mut out = Vec::new();
            sealer.seal(plain, &mut out).unwrap();
            hex::encode(out)
        };
        assert_eq!(record(&mut client, b"hello"), "040015a4990e2c89173b569fc5607ed50c4d4095fc20e0fc");
        assert_eq!(record(&mut client, b"hello"), "040015909e5b324d2b69ea4e9211532677842b2f28a79168");
        assert_eq!(record(&mut server, b"world"), "04001549d49dacb2c37ed74381b4f6ee7a09a2f2f966ecc4");
        for _ in 1..256 {
            record(&mut server, b"");
        }
        assert_eq!(record(&mut server, b"world"), "04001591d07322427d1842915ea6a144051cd0b2a10bfa49");
    }

    #[test]
    fn a_server_with_another_key_cannot_answer() {
        let mut random = Random::from_seed([9; 32]);
        let (initiator, message) = Initiator::new(&secret(2), &secret(1).public(), 113, &mut random).unwrap();
        assert!(matches!(Responder::accept(&secret(5), &message, &mut random), Err(HandshakeError::Forged)));
        let (_, other) = Initiator::new(&secret(2), &secret(5).public(), 113, &mut random).unwrap();
        let impostor = Responder::accept(&secret(5), &other, &mut random).unwrap();
        assert!(matches!(initiator.finish(&impostor.response), Err(HandshakeError::Forged)));
    }

    #[test]
    fn an_error_of_the_server_is_shown_without_its_control_characters() {
        let mut random = Random::from_seed([9; 32]);
        let (initiator, _) = Initiator::new(&secret(2), &secret(1).public(), 113, &mut random).unwrap();
        let Err(error) = initiator.finish(b"\x03\x00\x08too\x1b old") else { panic!("an error is no channel") };
        assert_eq!(error, HandshakeError::Refused("too old".into()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_responder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Responder::accept(&secret(1), &bytes, &mut Random::from_seed([1; 32])).is_err());
        }

        #[test]
        fn a_flipped_bit_of_the_initiation_is_noticed(at in 0_usize..INITIATION_BYTES, bit in 0_u8..8) {
            let mut random = Random::from_seed([7; 32]);
            let (_, mut message) = Initiator::new(&secret(2), &secret(1).public(), 113, &mut random).unwrap();
            message[at] ^= 1 << bit;
            // The sign bit of a Curve25519 key is ignored by the curve, but not by the handshake hash.
            prop_assert!(Responder::accept(&secret(1), &message, &mut random).is_err());
        }
    }
}
