//! MAC1, MAC2 and cookies: proof that a stranger knows our name, and that it can hear at its address.
//!
//! MAC1 is keyed by the receiver's public key. Under load the receiver answers with a cookie, sealed for the sender's
//! address and port; the sender repeats its message with a MAC2 keyed by the cookie. Whitepaper §5.4.4, §5.4.7.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use warren_crypto::{NodePublic, Random, ct_eq};
use zeroize::Zeroizing;

use crate::message::{CookieReply, macs_at};
use crate::noise::{hash, mac};

const LABEL_MAC1: &[u8] = b"mac1----";
const LABEL_COOKIE: &[u8] = b"cookie--";

/// Secrets that cookies are made from change this often; a cookie is believed as long (whitepaper §6.1).
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(120);

/// Where a handshake message came from, in terms that stay the same while its sender does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// Straight from an address.
    Address(SocketAddr),
    /// Through a relay, which has authenticated the sender's key.
    Relay(NodePublic),
}

impl Source {
    /// What a cookie is bound to: address *and* port, else one host behind an address could use its neighbour's cookie.
    fn cookie_input(self) -> Vec<u8> {
        match self {
            Self::Address(addr) => {
                let mut bytes = match addr.ip().to_canonical() {
                    IpAddr::V4(ip) => ip.octets().to_vec(),
                    IpAddr::V6(ip) => ip.octets().to_vec(),
                };
                bytes.extend_from_slice(&addr.port().to_be_bytes());
                bytes
            }
            Self::Relay(key) => key.as_bytes().to_vec(),
        }
    }

    /// Whom the rate limit counts as one: an IPv4 address, an IPv6 /64 (one customer has all of it), a relayed key.
    pub(crate) fn limit_key(self) -> (u8, [u8; 32]) {
        let mut key = [0; 32];
        match self {
            Self::Address(addr) => match addr.ip().to_canonical() {
                IpAddr::V4(ip) => {
                    key[..4].copy_from_slice(&ip.octets());
                    (4, key)
                }
                IpAddr::V6(ip) => {
                    key[..8].copy_from_slice(&ip.octets()[..8]);
                    (6, key)
                }
            },
            Self::Relay(node) => (1, *node.as_bytes()),
        }
    }
}

/// The receiving end: judges MACs of messages to us, and makes cookies.
pub(crate) struct Checker {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    secret: Zeroizing<[u8; 32]>,
    secret_since: Instant,
    random: Random,
}

impl Checker {
    pub(crate) fn new(public: &NodePublic, mut random: Random, now: Instant) -> Self {
        Self {
            mac1_key: hash(&[LABEL_MAC1, public.as_bytes()]),
            cookie_key: hash(&[LABEL_COOKIE, public.as_bytes()]),
            secret: Zeroizing::new(random.bytes()),
            secret_since: now,
            random,
        }
    }

    pub(crate) fn mac1_is_right(&self, message: &[u8]) -> bool {
        macs_at(message).is_some_and(|at| ct_eq(&mac(&self.mac1_key, &message[..at]), &message[at..at + 16]))
    }

    pub(crate) fn mac2_is_right(&mut self, message: &[u8], source: Source, now: Instant) -> bool {
        let cookie = self.cookie(source, now);
        macs_at(message).is_some_and(|at| ct_eq(&mac(&cookie, &message[..at + 16]), &message[at + 16..]))
    }

    /// A cookie for the sender of `message`, whose MAC1 was right. `receiver`: the index by which the sender knows it.
    pub(crate) fn cookie_reply(
        &mut self,
        message: &[u8],
        receiver: u32,
        source: Source,
        now: Instant,
    ) -> Option<CookieReply> {
        let at = macs_at(message)?;
        let cookie = self.cookie(source, now);
        let nonce = self.random.bytes::<24>();
        let sealed = XChaCha20Poly1305::new(&self.cookie_key.into())
            .encrypt(&XNonce::from(nonce), Payload { msg: &cookie, aad: &message[at..at + 16] })
            .ok()?;
        Some(CookieReply { receiver, nonce, sealed_cookie: sealed.try_into().ok()? })
    }

    fn cookie(&mut self, source: Source, now: Instant) -> [u8; 16] {
        if now.saturating_duration_since(self.secret_since) >= COOKIE_LIFETIME {
            self.secret = Zeroizing::new(self.random.bytes());
            self.secret_since = now;
        }
        mac(&self.secret[..], &source.cookie_input())
    }
}

/// The sending end towards one peer: writes MACs, remembers the peer's cookie.
pub(crate) struct Writer {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    cookie: Option<([u8; 16], Instant)>,
    last_mac1: Option<[u8; 16]>,
}

impl Writer {
    pub(crate) fn new(peer: &NodePublic) -> Self {
        Self {
            mac1_key: hash(&[LABEL_MAC1, peer.as_bytes()]),
            cookie_key: hash(&[LABEL_COOKIE, peer.as_bytes()]),
            cookie: None,
            last_mac1: None,
        }
    }

    /// Fills both MACs of an encoded initiation or response.
    pub(crate) fn write(&mut self, message: &mut [u8], now: Instant) {
        let Some(at) = macs_at(message) else { return };
        let mac1 = mac(&self.mac1_key, &message[..at]);
        message[at..at + 16].copy_from_slice(&mac1);
        self.last_mac1 = Some(mac1);
        if let Some((cookie, since)) = self.cookie
            && now.saturating_duration_since(since) < COOKIE_LIFETIME
        {
            let mac2 = mac(&cookie, &message[..at + 16]);
            message[at + 16..].copy_from_slice(&mac2);
        }
    }

    /// Takes a cookie that answers our last message; says whether it was one.
    pub(crate) fn accept_cookie(&mut self, reply: &CookieReply, now: Instant) -> bool {
        let Some(mac1) = self.last_mac1 else { return false };
        let opened = XChaCha20Poly1305::new(&self.cookie_key.into())
            .decrypt(&XNonce::from(reply.nonce), Payload { msg: &reply.sealed_cookie, aad: &mac1 });
        let Some(cookie) = opened.ok().and_then(|plain| plain.try_into().ok()) else { return false };
        self.cookie = Some((cookie, now));
        // One cookie per message: a second reply to it can only be a replay.
        self.last_mac1 = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_for_its_address_and_port_until_it_ages() {
        let now = crate::timers::tests::start();
        let public = NodePublic::from_bytes([5; 32]);
        let mut checker = Checker::new(&public, Random::from_seed([1; 32]), now);
        let mut writer = Writer::new(&public);
        let source = Source::Address("192.0.2.1:1000".parse().expect("address"));
        let neighbour = Source::Address("192.0.2.1:1001".parse().expect("address"));

        let mut message = [7; 148];
        message[116..].fill(0);
        writer.write(&mut message, now);
        assert!(checker.mac1_is_right(&message) && !checker.mac2_is_right(&message, source, now));

        let mut reply = checker.cookie_reply(&message, 1, source, now).expect("cookie");
        reply.sealed_cookie[0] ^= 1;
        assert!(!writer.accept_cookie(&reply, now), "forged");
        reply.sealed_cookie[0] ^= 1;
        assert!(writer.accept_cookie(&reply, now));
        assert!(!writer.accept_cookie(&reply, now), "twice");

        writer.write(&mut message, now);
        assert!(checker.mac2_is_right(&message, source, now));
        assert!(!checker.mac2_is_right(&message, neighbour, now));
        assert!(!checker.mac2_is_right(&message, Source::Relay(public), now));
        assert!(!checker.mac2_is_right(&message, source, now + COOKIE_LIFETIME));
        message[116..].fill(0);
        writer.write(&mut message, now + COOKIE_LIFETIME);
        assert_eq!(message[132..], [0; 16], "an aged cookie is not used");
    }

    #[test]
    fn an_ipv4_address_in_ipv6_clothes_is_the_same_source() {
        let plain = Source::Address("192.0.2.1:7".parse().expect("address"));
        let mapped = Source::Address("[::ffff:192.0.2.1]:7".parse().expect("address"));
        assert_eq!(plain.cookie_input(), mapped.cookie_input());
        assert_eq!(plain.limit_key(), mapped.limit_key());
    }
}
