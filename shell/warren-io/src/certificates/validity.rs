//! From when to when a certificate is good, read from its DER form.
//!
//! ```text
//! Certificate ::= SEQUENCE { tbsCertificate ::= SEQUENCE {
//!     [0] version (maybe), serialNumber INTEGER, signature SEQUENCE, issuer SEQUENCE,
//!     validity SEQUENCE { notBefore Time, notAfter Time }, … }, … }
//! ```
//!
//! Just these five steps: for a whole X.509 reader there is no other use. RFC 5280 §4.1.

use std::time::{Duration, SystemTime};

/// Beginning and end, in seconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// `notBefore`.
    pub begins: u64,
    /// `notAfter`.
    pub ends: u64,
}

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;

impl Validity {
    /// `None`: this is no certificate. Never panics.
    pub fn of(certificate: &[u8]) -> Option<Self> {
        let (tag, certificate, _) = element(certificate)?;
        let (inner_tag, mut tbs, _) = element(certificate).filter(|_| tag == SEQUENCE)?;
        if inner_tag != SEQUENCE {
            return None;
        }
        if tbs.first() == Some(&VERSION) {
            tbs = element(tbs)?.2;
        }
        for _serial_signature_issuer in 0..3 {
            tbs = element(tbs)?.2;
        }
        let (_, validity, _) = element(tbs).filter(|(tag, ..)| *tag == SEQUENCE)?;
        let (tag, begins, rest) = element(validity)?;
        let begins = time(tag, begins)?;
        let (tag, ends, _) = element(rest)?;
        Some(Self { begins, ends: time(tag, ends)? })
    }

    /// How long it is good altogether.
    pub fn life(&self) -> Duration {
        Duration::from_secs(self.ends.saturating_sub(self.begins))
    }

    /// A time of ours as a certificate counts it.
    pub fn seconds(at: SystemTime) -> u64 {
        at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
    }
}

/// Tag, content and what follows.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// `YYMMDDhhmmssZ`, where YY under 50 is of this century, or `YYYYMMDDhhmmssZ`.
fn time(tag: u8, text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (year, rest): (u64, &str) = match (tag, text.len()) {
        (UTC_TIME, 12) => {
            let short: u64 = text[..2].parse().ok()?;
            (if short < 50 { 2000 + short } else { 1900 + short }, &text[2..])
        }
        (GENERALIZED_TIME, 14) => (text[..4].parse().ok()?, &text[4..]),
        _ => return None,
    };
    let part = |at: usize| rest[at..at + 2].parse::<u64>().ok();
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second < 61;
    if !is_date || year < 1970 {
        return None;
    }
    // Days since 1970-01-01 in the Gregorian calendar, counting years from March, so that leap days come last.
    let (from_march, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = |year: u64| year / 4 - year / 100 + year / 400;
    let days = from_march * 365 + leap_days(from_march) + (month * 153 + 2) / 5 + day - 1;
    /// The same count for 1970-01-01: 1969 years, and January 1st is day 306 of its year from March.
    const EPOCH: u64 = 1969 * 365 + 477 + 306;
    Some(days.checked_sub(EPOCH)? * 86400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_calendars_have_them() {
        for (tag, text, expect) in [
            (UTC_TIME, "700101000000Z", Some(0)),
            (UTC_TIME, "240229120000Z", Some(1_709_208_000)),
            (UTC_TIME, "240301000000Z", Some(1_709_251_200)),
            (UTC_TIME, "491231235959Z", Some(2_524_607_999)),
            (GENERALIZED_TIME, "20500101000000Z", Some(2_524_608_000)),
            (GENERALIZED_TIME, "21000301000000Z", Some(4_107_542_400)),
            (UTC_TIME, "241301000000Z", None),
            (UTC_TIME, "2401010000Z", None),
            (UTC_TIME, "2401010000+1Z", None),
            (GENERALIZED_TIME, "19691231235959Z", None),
        ] {
            assert_eq!(time(tag, text.as_bytes()), expect, "{text}");
        }
    }

    #[test]
    fn a_certificate_says_its_life_and_nothing_else_panics() {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
        params.not_before = rcgen::date_time_ymd(2024, 3, 1);
        params.not_after = rcgen::date_time_ymd(2051, 1, 1);
        let made = params.self_signed(&rcgen::KeyPair::generate().expect("a key")).expect("a certificate");
        let expect = Validity { begins: 1_709_251_200, ends: 2_556_144_000 };
        assert_eq!(Validity::of(made.der()), Some(expect));
        for cut in 0..made.der().len() {
            assert_eq!(Validity::of(&made.der()[..cut]), None);
        }
        let mut noise = made.der().to_vec();
        for at in 0..200 {
            noise[at] ^= 0xff;
            let _ = Validity::of(&noise);
        }
    }
}
