//! Dates as values: wall time is an argument in `core/`, apart from `Instant`, which measures delays.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Time since 1970-01-01T00:00:00Z, leap seconds not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixTime(Duration);

/// Text that is not a date.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 date")]
pub struct ParseTimeError;

/// Last second that RFC 3339 can write (year 9999).
const LAST_SECOND: u64 = 253_402_300_799;

impl UnixTime {
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    pub const fn from_duration(since_1970: Duration) -> Self {
        Self(since_1970)
    }

    pub const fn as_secs(self) -> u64 {
        self.0.as_secs()
    }

    pub const fn since_1970(self) -> Duration {
        self.0
    }

    pub fn checked_add(self, duration: Duration) -> Option<Self> {
        self.0.checked_add(duration).map(Self)
    }

    pub fn saturating_add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(duration))
    }

    pub fn saturating_sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration))
    }

    /// How long after `earlier`; zero if it is not after.
    pub fn saturating_since(self, earlier: UnixTime) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// `2026-03-01T12:00:00Z`, with as many digits of the second as are not zero.
    pub fn to_rfc3339(self) -> String {
        let seconds = self.0.as_secs().min(LAST_SECOND);
        let (year, month, day) = date_of(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
        let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        let nanoseconds = self.0.subsec_nanos();
        if nanoseconds > 0 {
            let digits = format!("{nanoseconds:09}");
            text.push('.');
            text.push_str(digits.trim_end_matches('0'));
        }
        text.push('Z');
        text
    }

    /// # Errors
    /// [`ParseTimeError`] for anything else, dates before 1970 among them.
    pub fn parse_rfc3339(text: &str) -> Result<Self, ParseTimeError> {
        parse(text)
            .and_then(|(seconds, nanoseconds)| {
                let seconds = u64::try_from(seconds).ok()?;
                Some(Self(Duration::new(seconds, nanoseconds)))
            })
            .ok_or(ParseTimeError)
    }

    /// As [`Self::parse_rfc3339`], but Go's zero time (year 1) and any other date before 1970 mean "none".
    ///
    /// # Errors
    /// [`ParseTimeError`] if it is no date at all.
    pub fn parse_go_time(text: &str) -> Result<Option<Self>, ParseTimeError> {
        let (seconds, nanoseconds) = parse(text).ok_or(ParseTimeError)?;
        Ok(u64::try_from(seconds).ok().map(|seconds| Self(Duration::new(seconds, nanoseconds))))
    }
}

/// Seconds since 1970 (negative before) and nanoseconds.
fn parse(text: &str) -> Option<(i64, u32)> {
    let bytes = text.as_bytes();
    if bytes.len() < 20 || bytes.len() > 64 || !text.is_ascii() {
        return None;
    }
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = &text[from..to];
        digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    let marks = [(4, b'-'), (7, b'-'), (13, b':'), (16, b':')];
    if marks.iter().any(|(at, mark)| bytes[*at] != *mark) || !matches!(bytes[10], b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days_in_month = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if !(1..=days_in_month).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let mut at = 19;
    let mut nanoseconds = 0;
    if bytes[at] == b'.' {
        let digits = bytes[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        let kept = &text[at + 1..at + 1 + digits.min(9)];
        nanoseconds = kept.parse::<u32>().ok()? * 10_u32.pow(9 - u32::try_from(kept.len()).ok()?);
        at += 1 + digits;
    }
    let offset = match bytes.get(at)? {
        b'Z' | b'z' if bytes.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if bytes.len() == at + 6 && bytes[at + 3] == b':' => {
            let (hours, minutes) = (number(at + 1, at + 3)?, number(at + 4, at + 6)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = hours * 3600 + minutes * 60;
            if *sign == b'+' { seconds } else { -seconds }
        }
        _ => return None,
    };
    let seconds = days_from(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second.min(59) - offset;
    // A zone west of Greenwich reaches into the year 10000, which could not be written again.
    Some((seconds.min(LAST_SECOND.cast_signed()), nanoseconds))
}

/// Days from 1970-01-01 to that date of the Gregorian calendar, counting years from March so that leap days come last.
fn days_from(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// Inverse of [`days_from`], for days since 1970.
fn date_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = era * 400 + year_of_era + u64::from(month >= 10);
    (year, if month < 10 { month + 3 } else { month - 9 }, day)
}

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_rfc3339())
    }
}

impl Serialize for UnixTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_rfc3339())
    }
}

impl<'de> Deserialize<'de> for UnixTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse_rfc3339(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_read_as_rfc_3339_says() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-11-21T13:00:00+01:00", 1_795_262_400),
            ("9999-12-31T23:59:59Z", LAST_SECOND),
            ("9999-12-31T23:59:59-05:00", LAST_SECOND),
        ] {
            assert_eq!(UnixTime::parse_rfc3339(text), Ok(UnixTime::from_secs(seconds)), "{text}");
        }
        for text in [
            "",
            "2026-02-29T00:00:00Z",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "2026-13-01T00:00:00Z",
            "2026-01-01T00:00:00.Z",
        ] {
            assert!(UnixTime::parse_rfc3339(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_zero_time_of_go_means_none() {
        assert_eq!(UnixTime::parse_go_time("0001-01-01T00:00:00Z"), Ok(None));
        assert!(UnixTime::parse_go_time("soon").is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(seconds in 0..=LAST_SECOND, nanoseconds in 0_u32..1_000_000_000) {
            let time = UnixTime::from_duration(Duration::new(seconds, nanoseconds));
            prop_assert_eq!(UnixTime::parse_rfc3339(&time.to_rfc3339()), Ok(time));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".{0,40}") {
            let _ = UnixTime::parse_go_time(&text);
        }
    }
}
