//! Sign-ins between their steps: who was sent away, and who is back and has not said yes yet.
//!
//! Each belongs to one browser, by a cookie, and to one errand. A step can be taken once, whoever asks; what
//! comes from another browser changes nothing. Soft, and in memory: a restart forgets them, and people begin again from
//! their link. Several servers that share the work would share this table, and nothing else of signing in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use warren_control::rows::Sealed;
use warren_control::{AuthId, Person};
use warren_crypto::{Random, UnixTime, ct_eq, sha256};
use warren_ip::{heaviest, source_of};
use warren_oidc::{Login, Secret};

/// As long as the link that led here is good.
const LIFETIME: Duration = Duration::from_secs(15 * 60);

/// Anybody with a link can begin, so this bounds memory; the oldest of the source that has most goes first.
const MOST: usize = 1024;

/// From one source: an office in which many join at once stays below.
const MOST_PER_SOURCE: usize = 256;

/// For one errand; a person has a few browsers.
const MOST_PER_ERRAND: usize = 16;

/// All of them, by state.
#[derive(Default)]
pub(super) struct Attempts {
    by_state: BTreeMap<String, Attempt>,
}

struct Attempt {
    errand: Errand,
    /// Where the browser is, as [`source_of`] counts.
    source: IpAddr,
    /// SHA-256 of the cookie's value.
    browser: [u8; 32],
    since: Instant,
    step: Step,
}

enum Step {
    /// At the provider.
    Away(Box<Login>),
    /// Verified; asked whether they mean it.
    Back(Box<Back>),
    /// Nothing comes after it.
    Done,
}

/// Somebody who has signed in.
#[derive(Clone)]
pub(super) struct Back {
    pub(super) person: Person,
    pub(super) refresh: Option<Token>,
    pub(super) until: Option<UnixTime>,
    /// Comes back with the form, and with nothing else.
    pub(super) form_token: Secret,
}

/// What the provider gave for asking again.
#[derive(Clone)]
pub(super) struct Token {
    pub(super) sealed: Sealed,
    /// Already in the database, since its person is known. There it may have been exchanged for another meanwhile.
    pub(super) is_kept: bool,
}

/// What somebody signs in for, by the id of the link that led here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// A device waits to become theirs.
    Device(AuthId),
    /// A shell is opened from a device of theirs.
    Shell(AuthId),
}

impl Errand {
    pub(crate) fn id(self) -> AuthId {
        match self {
            Self::Device(id) | Self::Shell(id) => id,
        }
    }

    /// The path of the page where it began, and that says what became of it.
    pub(crate) fn page(self) -> String {
        match self {
            Self::Device(id) => format!("/register/{id}"),
            Self::Shell(id) => format!("/auth/{id}"),
        }
    }
}

/// What a browser needs to go on.
pub(super) struct Begun {
    pub(super) login: Login,
    pub(super) cookie: Secret,
}

/// Why a step cannot be taken. For the person and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Lost {
    /// Never begun, too long ago, or before a restart.
    #[error("this sign-in is not known (any more)")]
    Unknown,
    /// No cookie, or not the right one.
    #[error("this sign-in was begun in another browser, or this browser keeps no cookies")]
    OtherBrowser,
    /// The step was taken before.
    #[error("this answer of the provider was used before")]
    Used,
    /// The form did not come from our page.
    #[error("this form does not belong to this sign-in")]
    Form,
}

impl Attempts {
    pub(super) fn begin(&mut self, errand: Errand, from: IpAddr, now: Instant, random: &mut Random) -> Begun {
        let source = source_of(from);
        self.by_state.retain(|_, attempt| now.saturating_duration_since(attempt.since) < LIFETIME);
        self.make_room(MOST_PER_ERRAND, |attempt| attempt.errand == errand);
        self.make_room(MOST_PER_SOURCE, |attempt| attempt.source == source);
        if self.by_state.len() >= MOST
            && let Some(most) = heaviest(self.by_state.values().map(|attempt| attempt.source))
        {
            let count = self.by_state.values().filter(|attempt| attempt.source == most).count();
            self.make_room(count, |attempt| attempt.source == most);
        }
        let login = Login::begin(random);
        let cookie = word(random);
        let browser = sha256(cookie.expose().as_bytes());
        let step = Step::Away(Box::new(login.clone()));
        self.by_state.insert(login.state.clone(), Attempt { errand, source, browser, since: now, step });
        Begun { login, cookie }
    }

    /// The person is back from the provider: what they were sent away with, this once.
    pub(super) fn take(&mut self, state: &str, cookie: &str, now: Instant) -> Result<(Errand, Login), Lost> {
        let attempt = self.find(state, cookie, now)?;
        match std::mem::replace(&mut attempt.step, Step::Done) {
            Step::Away(login) => Ok((attempt.errand, *login)),
            other => {
                attempt.step = other;
                Err(Lost::Used)
            }
        }
    }

    /// The provider's answer was good.
    pub(super) fn came_back(
        &mut self,
        state: &str,
        person: Person,
        refresh: Option<Token>,
        until: Option<UnixTime>,
        random: &mut Random,
    ) {
        if let Some(attempt) = self.by_state.get_mut(state) {
            attempt.step = Step::Back(Box::new(Back { person, refresh, until, form_token: word(random) }));
        }
    }

    /// Who has signed in, to be asked.
    pub(super) fn look(&mut self, state: &str, cookie: &str, now: Instant) -> Result<(Errand, Back), Lost> {
        let attempt = self.find(state, cookie, now)?;
        match &attempt.step {
            Step::Back(back) => Ok((attempt.errand, Back::clone(back))),
            Step::Away(_) => Err(Lost::Unknown),
            Step::Done => Err(Lost::Used),
        }
    }

    /// They have answered, this once.
    pub(super) fn finish(
        &mut self,
        state: &str,
        cookie: &str,
        form_token: &str,
        now: Instant,
    ) -> Result<(Errand, Back), Lost> {
        let (errand, back) = self.look(state, cookie, now)?;
        if !ct_eq(back.form_token.expose().as_bytes(), form_token.as_bytes()) {
            return Err(Lost::Form);
        }
        self.find(state, cookie, now)?.step = Step::Done;
        Ok((errand, back))
    }

    /// Whether it was begun here, by whichever browser.
    pub(super) fn knows(&self, state: &str) -> bool {
        self.by_state.contains_key(state)
    }

    fn find(&mut self, state: &str, cookie: &str, now: Instant) -> Result<&mut Attempt, Lost> {
        let is_open = |attempt: &&mut Attempt| now.saturating_duration_since(attempt.since) < LIFETIME;
        let attempt = self.by_state.get_mut(state).filter(is_open).ok_or(Lost::Unknown)?;
        if ct_eq(&attempt.browser, &sha256(cookie.as_bytes())) { Ok(attempt) } else { Err(Lost::OtherBrowser) }
    }

    fn make_room(&mut self, most: usize, matches: impl Fn(&Attempt) -> bool) {
        while self.by_state.values().filter(|attempt| matches(attempt)).count() >= most {
            let oldest = self.by_state.iter().filter(|(_, attempt)| matches(attempt)).min_by_key(|(_, a)| a.since);
            let Some(state) = oldest.map(|(state, _)| state.clone()) else { return };
            self.by_state.remove(&state);
        }
    }
}

/// 256 random bits as text.
fn word(random: &mut Random) -> Secret {
    Secret::new(URL_SAFE_NO_PAD.encode(random.bytes::<32>()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    struct Party {
        attempts: Attempts,
        random: Random,
        now: Instant,
    }

    fn party() -> Party {
        Party { attempts: Attempts::default(), random: Random::from_seed([3; 32]), now: Instant::now() }
    }

    fn device(number: u16) -> Errand {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&number.to_be_bytes());
        Errand::Device(AuthId::from_bytes(bytes))
    }

    #[test]
    fn every_step_is_taken_once_and_by_one_browser() {
        let Party { mut attempts, mut random, now } = party();
        let begun = attempts.begin(device(1), HERE, now, &mut random);
        let (state, cookie) = (begun.login.state.clone(), begun.cookie.expose().to_owned());
        assert_eq!(attempts.take("other", &cookie, now).map(drop), Err(Lost::Unknown));
        assert_eq!(attempts.take(&state, "", now).map(drop), Err(Lost::OtherBrowser));
        let other = attempts.begin(device(1), HERE, now, &mut random).cookie;
        assert_eq!(attempts.take(&state, other.expose(), now).map(drop), Err(Lost::OtherBrowser));
        assert_eq!(attempts.look(&state, &cookie, now).map(drop), Err(Lost::Unknown), "nobody has signed in yet");
        let (found, login) = attempts.take(&state, &cookie, now).expect("the right browser");
        assert_eq!((found, login.verifier), (device(1), begun.login.verifier));
        assert_eq!(attempts.take(&state, &cookie, now).map(drop), Err(Lost::Used));

        attempts.came_back(&state, Person::default(), None, None, &mut random);
        assert_eq!(attempts.take(&state, &cookie, now).map(drop), Err(Lost::Used));
        let (_, back) = attempts.look(&state, &cookie, now).expect("signed in");
        let token = back.form_token.expose();
        assert_eq!(attempts.finish(&state, &cookie, "x", now).map(drop), Err(Lost::Form));
        assert_eq!(attempts.finish(&state, "x", token, now).map(drop), Err(Lost::OtherBrowser));
        attempts.finish(&state, &cookie, token, now).expect("yes");
        assert_eq!(attempts.finish(&state, &cookie, token, now).map(drop), Err(Lost::Used));
    }

    #[test]
    fn sign_ins_end_and_there_are_only_so_many() {
        let Party { mut attempts, mut random, now } = party();
        let begun = attempts.begin(device(1), HERE, now, &mut random);
        let late = now + LIFETIME;
        assert_eq!(attempts.take(&begun.login.state, begun.cookie.expose(), late).map(drop), Err(Lost::Unknown));
        for number in 0..40 {
            attempts.begin(device(7), HERE, now + Duration::from_secs(number), &mut random);
        }
        assert_eq!(attempts.by_state.len(), 1 + MOST_PER_ERRAND);
        for number in 0..2000 {
            attempts.begin(device(number), HERE, now + Duration::from_secs(60), &mut random);
        }
        assert_eq!(attempts.by_state.len(), MOST_PER_SOURCE);
        let patient = attempts.begin(device(8), [192, 0, 2, 200].into(), now, &mut random);
        for number in 0..2000 {
            let from = [198, 51, 100, (number % 5) as u8].into();
            attempts.begin(device(number), from, now + Duration::from_secs(60), &mut random);
        }
        assert_eq!(attempts.by_state.len(), MOST);
        attempts.take(&patient.login.state, patient.cookie.expose(), now).expect("not pushed out by the others");
        attempts.begin(device(1), HERE, late + LIFETIME, &mut random);
        assert_eq!(attempts.by_state.len(), 1);
    }
}
