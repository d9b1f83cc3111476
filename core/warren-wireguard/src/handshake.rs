//! The handshake `IKpsk2`, one struct per step.
//!
//! ```text
//! initiator                                              responder
//! Initiated::begin ── e, es, s, ss, timestamp ─────────> Received::open      (who is it, and when)
//! Initiated::finish <─────── e, ee, se, psk, empty ───── Received::respond
//!        └── keys                                               └── keys (not used to send before the first data)
//! ```
//! Whitepaper §5.4.2, §5.4.3. A step that fails leaves its inputs as they were, so that a forged answer costs nothing.

use warren_crypto::{NodePublic, NodeSecret, Random};
use zeroize::Zeroizing;

use crate::message::{Initiation, Response};
use crate::noise::{Key, Symmetric};
use crate::timestamp::Timestamp;
use crate::transport::{ReceiveKey, SendKey};

/// A preshared key, mixed into the next handshake; all zero when there is none.
#[derive(Clone)]
pub struct Psk(Zeroizing<[u8; 32]>);

impl Psk {
    /// A key from elsewhere, for example a post-quantum exchange inside the tunnel.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl Default for Psk {
    fn default() -> Self {
        Self::new([0; 32])
    }
}

/// The keys of both directions.
pub(crate) struct Keys {
    pub(crate) send: SendKey,
    pub(crate) receive: ReceiveKey,
}

/// An initiation that waits for its response. Ephemeral keys are node keys by type only: same curve, wiped on drop.
pub(crate) struct Initiated {
    symmetric: Symmetric,
    ephemeral: NodeSecret,
}

impl Initiated {
    /// Writes an initiation; `None` when the peer's key is a point that no honest peer has.
    pub(crate) fn begin(
        secret: &NodeSecret,
        static_shared: &Key,
        peer: &NodePublic,
        index: u32,
        timestamp: Timestamp,
        random: &mut Random,
    ) -> Option<(Self, Initiation)> {
        let mut symmetric = Symmetric::new(peer.as_bytes());
        let ephemeral = NodeSecret::generate(random);
        let ephemeral_public = *ephemeral.public().as_bytes();
        symmetric.mix_ephemeral(&ephemeral_public);

        let key = symmetric.mix_key(&*ephemeral.agree(peer)?);
        let mut sealed_static = [0; 48];
        symmetric.seal(&key, secret.public().as_bytes(), &mut sealed_static);

        let key = symmetric.mix_key(static_shared);
        let mut sealed_timestamp = [0; 28];
        symmetric.seal(&key, &timestamp.encode(), &mut sealed_timestamp);

        let initiation = Initiation { sender: index, ephemeral: ephemeral_public, sealed_static, sealed_timestamp };
        Some((Self { symmetric, ephemeral }, initiation))
    }

    /// Keys, if the response is the peer's. Nothing changes otherwise.
    pub(crate) fn finish(&self, secret: &NodeSecret, psk: &Psk, response: &Response) -> Option<Keys> {
        let mut symmetric = self.symmetric.clone();
        symmetric.mix_ephemeral(&response.ephemeral);
        symmetric.mix_chain(&*self.ephemeral.agree_raw(&response.ephemeral)?);
        symmetric.mix_chain(&*secret.agree_raw(&response.ephemeral)?);
        let key = symmetric.mix_psk(&psk.0);
        symmetric.open::<0>(&key, &response.sealed_empty)?;
        let [to_responder, to_initiator] = symmetric.split();
        Some(Keys { send: SendKey::new(response.sender, &to_responder), receive: ReceiveKey::new(&to_initiator) })
    }
}

/// An initiation whose sender is known by name, not yet by proof: the timestamp is still sealed.
pub(crate) struct Claimed {
    symmetric: Symmetric,
    pub(crate) peer: NodePublic,
}

/// An initiation that only the peer can have written, at some time.
pub(crate) struct Received {
    symmetric: Symmetric,
    pub(crate) timestamp: Timestamp,
}

impl Claimed {
    /// Opens the sender's name. One Diffie-Hellman.
    pub(crate) fn open(secret: &NodeSecret, public: &NodePublic, initiation: &Initiation) -> Option<Self> {
        let mut symmetric = Symmetric::new(public.as_bytes());
        symmetric.mix_ephemeral(&initiation.ephemeral);
        let key = symmetric.mix_key(&*secret.agree_raw(&initiation.ephemeral)?);
        let peer = NodePublic::from_bytes(symmetric.open(&key, &initiation.sealed_static)?);
        Some(Self { symmetric, peer })
    }

    /// Opens the timestamp, which proves the name.
    pub(crate) fn prove(mut self, static_shared: &Key, initiation: &Initiation) -> Option<Received> {
        let key = self.symmetric.mix_key(static_shared);
        let timestamp = Timestamp::decode(self.symmetric.open(&key, &initiation.sealed_timestamp)?);
        Some(Received { symmetric: self.symmetric, timestamp })
    }
}

impl Received {
    /// Writes the response. Two Diffie-Hellmans; `None` for ephemeral keys that no honest peer sends.
    pub(crate) fn respond(
        mut self,
        peer: &NodePublic,
        psk: &Psk,
        initiation: &Initiation,
        index: u32,
        random: &mut Random,
    ) -> Option<(Keys, Response)> {
        let ephemeral = NodeSecret::generate(random);
        let ephemeral_public = *ephemeral.public().as_bytes();
        self.symmetric.mix_ephemeral(&ephemeral_public);
        self.symmetric.mix_chain(&*ephemeral.agree_raw(&initiation.ephemeral)?);
        self.symmetric.mix_chain(&*ephemeral.agree(peer)?);
        let key = self.symmetric.mix_psk(&psk.0);
        let mut sealed_empty = [0; 16];
        self.symmetric.seal(&key, &[], &mut sealed_empty);
        let [to_responder, to_initiator] = self.symmetric.split();
        let keys =
            Keys { send: SendKey::new(initiation.sender, &to_initiator), receive: ReceiveKey::new(&to_responder) };
        Some((keys, Response { sender: index, receiver: initiation.sender, ephemeral: ephemeral_public, sealed_empty }))
    }
}
