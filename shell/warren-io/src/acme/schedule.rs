//! When to ask for a certificate: pure, so that years of it are a test.

use std::time::Duration;

use warren_crypto::Random;

use crate::certificates::Validity;

/// After a first failure; three times as much after each further one. An authority may allow no more than five failures an
/// hour for a name.
const FIRST_RETRY: Duration = Duration::from_secs(120);
const LONGEST_RETRY: Duration = Duration::from_secs(6 * 3600);

/// Renewals are spread over this part of a certificate's life after the two thirds, so that many servers that were set up at
/// once do not come at once.
const SPREAD: f64 = 0.05;

pub(super) struct Schedule {
    failures: u32,
    /// Seconds since 1970.
    not_before: u64,
    /// From 0 to 1, drawn anew for each certificate.
    luck: f64,
}

impl Schedule {
    pub(super) fn new(random: &mut Random) -> Self {
        Self { failures: 0, not_before: 0, luck: draw(random) }
    }

    /// How long to wait from `now` (seconds since 1970); zero: ask.
    pub(super) fn wait(&self, in_force: Option<Validity>, now: u64) -> Duration {
        let renewal = in_force.map_or(0, |validity| {
            let life = validity.life().as_secs_f64();
            // Truncation by less than a second does no harm.
            validity.begins + (life * (2.0 / 3.0 + SPREAD * self.luck)) as u64
        });
        Duration::from_secs(renewal.max(self.not_before).saturating_sub(now))
    }

    pub(super) fn succeeded(&mut self, random: &mut Random) {
        *self = Self::new(random);
    }

    pub(super) fn failed(&mut self, now: u64, random: &mut Random) {
        let wait = FIRST_RETRY.saturating_mul(3_u32.saturating_pow(self.failures)).min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.not_before = now + random.range_duration(wait.mul_f64(0.9), wait.mul_f64(1.1)).as_secs();
    }
}

fn draw(random: &mut Random) -> f64 {
    random.range_duration(Duration::ZERO, Duration::from_secs(1)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 86400;

    #[test]
    fn a_certificate_is_renewed_at_two_thirds_of_its_life_and_not_everywhere_at_once() {
        let validity = Validity { begins: 1000 * DAY, ends: 1090 * DAY };
        let mut waits = Vec::new();
        for seed in 0..20 {
            let schedule = Schedule::new(&mut Random::from_seed([seed; 32]));
            assert_eq!(schedule.wait(None, 1000 * DAY), Duration::ZERO, "none at all: now");
            let wait = schedule.wait(Some(validity), 1000 * DAY).as_secs();
            assert!((60 * DAY..=65 * DAY).contains(&wait), "{wait}");
            assert_eq!(schedule.wait(Some(validity), 1066 * DAY), Duration::ZERO);
            assert_eq!(schedule.wait(Some(validity), 2000 * DAY), Duration::ZERO, "long expired: now");
            waits.push(wait);
        }
        waits.dedup();
        assert!(waits.len() > 10, "they are spread");
    }

    #[test]
    fn failures_wait_longer_and_longer_and_a_success_forgets_them() {
        let mut random = Random::from_seed([1; 32]);
        let mut schedule = Schedule::new(&mut random);
        let mut now = 1_000_000;
        let mut attempts_of_first_hour = 0;
        let mut last = 0;
        for _ in 0..12 {
            schedule.failed(now, &mut random);
            last = schedule.wait(None, now).as_secs();
            now += last;
            attempts_of_first_hour += u32::from(now < 1_000_000 + 3600);
        }
        assert!(attempts_of_first_hour < 5, "{attempts_of_first_hour}");
        assert!((19_440..=23_760).contains(&last), "six hours, give or take: {last}");
        schedule.succeeded(&mut random);
        assert_eq!(schedule.wait(None, now), Duration::ZERO);
    }
}
