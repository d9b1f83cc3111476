//! Noise, as far as TS2021 needs it: `Noise_IK_25519_ChaChaPoly_BLAKE2s`, empty payloads.
//!
//! ```text
//! initiator                         responder
//!     e, es, s, ss   ───────────▶
//!                    ◀───────────   e, ee, se
//! ```
//!
//! Source: The Noise Protocol Framework, revision 34, §5 and §7.5.

mod symmetric;

pub(crate) use symmetric::Symmetric;
