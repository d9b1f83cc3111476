//! Who people are, by what an identity provider says, and what follows for their nodes.
//!
//! Identity is (issuer, subject), which neither changes nor is given to another. Everything else is what the provider
//! says at the moment: it may change, and two people may come to say the same. Rules, each with a test:
//!
//! - The same (issuer, subject) is the same person, whatever else has changed.
//! - An e-mail address that another person here has is refused: a policy that names it would mean both.
//! - What a provider said before somebody signed in anew changes nothing; an address that another has changes nothing.
//! - A name is never taken over: whoever comes later gets a number behind it.
//! - A name that somebody chose at the provider gives no reach: policies go by addresses and by operators' words.
//! - A person whom the provider no longer vouches for has their nodes logged out, and their join keys let nobody in.

use std::collections::BTreeSet;
use std::sync::Arc;

use warren_crypto::UnixTime;
use warren_wire::{NodeId, UserId, is_deceptive};

use crate::command::{Answer, Refusal, RegisterRefusal};
use crate::event::Event;
use crate::names;
use crate::pending::AuthId;
use crate::register::{LetIn, cut, next};
use crate::roles::UserRole;
use crate::rows::{LOCAL_ISSUER, Node, Registered, Sealed, SignIn, User};
use crate::staged::Staged;

/// More groups than anybody is in; bounds a row.
const MOST_GROUPS: usize = 256;

/// Longest text of a profile, in bytes.
const LONGEST: usize = 255;

/// What an identity provider says about a person, after its answer was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Person {
    /// URL of the provider.
    pub issuer: String,
    /// The provider's own name for the person, which it gives to nobody else.
    pub subject: String,
    /// The name that the person signs in with; may be empty.
    pub login: String,
    /// E-mail address that the operator trusts to be the person's; empty if there is none.
    pub email: String,
    /// What people read; may be empty.
    pub display_name: String,
    /// URL of a picture; may be empty.
    pub picture_url: String,
    /// Groups by the provider's own names.
    pub groups: BTreeSet<String>,
}

impl Staged {
    /// A person signed in for a waiting machine and said that it is theirs.
    pub(crate) fn enrol(
        &mut self,
        id: AuthId,
        person: Person,
        refresh: Option<Sealed>,
        until: Option<UnixTime>,
        now: UnixTime,
    ) -> Result<Answer, Refusal> {
        if until.is_some_and(|until| until <= now) {
            return Err(Refusal::Conflict("this sign-in has expired meanwhile; sign in again".to_owned()));
        }
        let groups = known_groups(&person);
        let user = self.user_of(person, now)?;
        // A sign-in without a way to ask again does not undo an earlier one that has it.
        let refresh = refresh.or_else(|| self.state.registry.sign_in(user.id)?.refresh.clone());
        self.heard_of(SignIn { user: user.id, groups, refresh, checked: now, ended: false });
        match self.let_in(id, &user, LetIn { registered: Registered::SignIn, approved: false, until }, now) {
            // The device hears it as well: nobody else will decide about it, and only it can ask for less.
            Err(Refusal::Register(refusal @ RegisterRefusal::Tags(_))) => {
                Ok(self.refuse_registration(id, refusal, now))
            }
            other => other,
        }
    }

    /// The provider still vouches for somebody, perhaps with another profile.
    pub(crate) fn refresh_person(
        &mut self,
        person: Person,
        refresh: Option<Sealed>,
        user: UserId,
        asked: &SignIn,
        now: UnixTime,
    ) -> Result<Answer, Refusal> {
        let known = self.user(user)?;
        let before = match self.still(&known, asked) {
            Ok(before) => before,
            Err(late) => return self.keep_token(known, &person, refresh, asked).ok_or(late),
        };
        if (&known.issuer, &known.subject) != (&person.issuer, &person.subject) {
            return Err(Refusal::Conflict(format!("the provider answered for somebody else than user {}", known.name)));
        }
        let groups = known_groups(&person);
        // That an address is another's here says nothing about whether they are still there: the profile waits.
        let answer = match self.user_of(person, now) {
            Ok(user) => Answer::User(user),
            Err(Refusal::Conflict(reason)) => Answer::Kept(reason),
            Err(other) => return Err(other),
        };
        let refresh = refresh.or_else(|| before.refresh.clone());
        // Whoever was logged out comes back by signing in, not by a refresh that was already under way.
        self.heard_of(SignIn { user, groups, refresh, checked: now, ended: before.ended });
        Ok(answer)
    }

    /// A profile that came too late says nothing any more. But if its person signed in meanwhile without a new token, the
    /// one that is kept is the one that was just exchanged, and its successor must not be lost.
    fn keep_token(
        &mut self,
        known: Arc<User>,
        person: &Person,
        token: Option<Sealed>,
        asked: &SignIn,
    ) -> Option<Answer> {
        let row = self.state.registry.sign_in(known.id).cloned()?;
        let is_theirs = (&known.issuer, &known.subject) == (&person.issuer, &person.subject);
        if !is_theirs || row.ended || row.refresh.is_none() || row.refresh != asked.refresh {
            return None;
        }
        self.put_sign_in(SignIn { refresh: Some(token?), ..SignIn::clone(&row) });
        Some(Answer::User(known))
    }

    /// What is known of somebody's sign-in, if it is still what the provider was asked with.
    fn still(&self, user: &User, asked: &SignIn) -> Result<Arc<SignIn>, Refusal> {
        match self.state.registry.sign_in(user.id) {
            None => Err(Refusal::Conflict(format!("user {} did not sign in with a provider", user.name))),
            Some(known) if **known != *asked => Err(Refusal::Conflict(format!(
                "user {} has signed in meanwhile; what was known before is old",
                user.name
            ))),
            Some(known) => Ok(Arc::clone(known)),
        }
    }

    /// See the module: logged out, not deleted; whoever comes back finds their nodes.
    pub(crate) fn end_sign_in(
        &mut self,
        user: UserId,
        reason: &str,
        asked: &SignIn,
        now: UnixTime,
    ) -> Result<Answer, Refusal> {
        let user = self.user(user)?;
        let before = self.still(&user, asked)?;
        let nodes: Vec<_> = self.state.registry.nodes().filter(|n| n.owner.user() == Some(user.id)).cloned().collect();
        self.note(now, format!("user:{}", user.id.0), cut(reason, LONGEST));
        for node in nodes.iter().filter(|node| !node.logged_out) {
            let expiry = node.expiry.filter(|expiry| *expiry <= now).unwrap_or(now);
            self.put_node(Node { expiry: Some(expiry), expired: true, logged_out: true, ..Node::clone(node) });
            self.events.push(Event::NodeExpired(node.id));
        }
        // Groups give reach, and the person is in none any more.
        self.heard_of(SignIn { refresh: None, groups: BTreeSet::new(), ended: true, ..SignIn::clone(&before) });
        Ok(Answer::User(user))
    }

    /// An operator lets a node into the network, or keeps it out.
    pub(crate) fn approve_node(&mut self, id: NodeId, approved: bool, now: UnixTime) -> Result<Answer, Refusal> {
        let node = self.node(id)?;
        let kept_out = !approved;
        if (node.approved, node.kept_out) == (approved, kept_out) {
            return Ok(Answer::Node(node));
        }
        self.note(now, format!("node:{}", id.0), if approved { "let in" } else { "kept out" });
        let node = self.put_node(Node { approved, kept_out, ..Node::clone(&node) });
        self.events.push(Event::NodeApproved(id));
        Ok(Answer::Node(node))
    }

    /// The row of a person, made or brought up to date.
    fn user_of(&mut self, person: Person, now: UnixTime) -> Result<Arc<User>, Refusal> {
        if person.issuer.is_empty() || person.issuer == LOCAL_ISSUER || person.subject.is_empty() {
            return Err(Refusal::Invalid("the provider did not say who it is".to_owned()));
        }
        let email = plain(&person.email);
        let known = self.state.registry.user_by_identity(&person.issuer, &person.subject).cloned();
        let known_id = known.as_ref().map(|user| user.id);
        let has_it = |user: &&Arc<User>| Some(user.id) != known_id && user.is_called(&email);
        if !email.is_empty()
            && let Some(other) = self.state.registry.users().find(has_it)
        {
            let what_to_do = "an operator must rename or delete that one first";
            return Err(Refusal::Conflict(format!("{email} is the address of user {} here; {what_to_do}", other.name)));
        }
        let (display_name, picture_url) = (plain(&person.display_name), plain(&person.picture_url));
        let Some(known) = known else {
            let id = UserId(self.count(|facts| next(&mut facts.next_user)));
            let name = self.free_user_name(&wanted_name(&person, id), id);
            self.note(now, format!("user:{}", id.0), format!("{name} by {}", person.issuer));
            let user = self.put_user(User {
                id,
                issuer: person.issuer,
                subject: person.subject,
                self_named: is_self_named(&name, &email),
                name,
                display_name,
                email,
                picture_url,
                role: UserRole::Member,
                created: now,
            });
            self.events.push(Event::UserAdded(id));
            return Ok(user);
        };
        // A name that was an address follows the address, so that whoever gets the old one gets no name with it.
        let is_address = !known.email.is_empty() && known.name.eq_ignore_ascii_case(&known.email);
        let follows = is_address && known.email != email;
        let (name, self_named) = match follows {
            true => {
                let name = self.free_user_name(&wanted_name(&person, known.id), known.id);
                let self_named = is_self_named(&name, &email);
                (name, self_named)
            }
            false => (known.name.clone(), known.self_named),
        };
        let user = User { name, self_named, display_name, email, picture_url, ..User::clone(&known) };
        if user == *known {
            return Ok(known);
        }
        self.note(now, format!("user:{}", known.id.0), format!("{} has another profile", user.name));
        let user = self.put_user(user);
        self.events.push(Event::UserChanged(user.id));
        Ok(user)
    }

    /// Keeps what the provider said. Groups are what policies go by, so others hear of a change.
    fn heard_of(&mut self, sign_in: SignIn) {
        let before = self.state.registry.sign_in(sign_in.user);
        if before.is_none_or(|before| before.groups != sign_in.groups) {
            self.events.push(Event::UserChanged(sign_in.user));
        }
        self.put_sign_in(sign_in);
    }

    fn free_user_name(&self, wanted: &str, of: UserId) -> String {
        let is_free = |name: &String| self.check_user_name(name, Some(of)).is_ok();
        let (local, domain) = wanted.split_once('@').map_or((wanted, ""), |(local, _)| (local, &wanted[local.len()..]));
        let numbered = (1_u64..).map(|number| format!("{local}-{number}{domain}"));
        // One of as many names as there are users, and one more, is free.
        std::iter::once(wanted.to_owned()).chain(numbered).find(is_free).unwrap_or_default()
    }
}

/// What a person would be called if nobody else were: by an address that is theirs; only where the provider names none,
/// by the name that they sign in with. The latter never looks like an address, since anybody could choose it.
fn wanted_name(person: &Person, id: UserId) -> String {
    let email = person.email.to_lowercase();
    if email.len() <= LONGEST - 21 && email.contains('@') && names::is_user_name(&email) {
        return email;
    }
    if !email.is_empty() {
        // Somebody who has an address is not called by what they chose themselves, odd as the address may be.
        return format!("person-{}", id.0);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let login: String = person.login.to_lowercase().chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    let login = cut(login.trim_matches('-'), 64);
    if names::is_user_name(login) { login.to_owned() } else { format!("person-{}", id.0) }
}

/// Whether nobody but the person says that they are called so ([`User::self_named`]).
fn is_self_named(name: &str, email: &str) -> bool {
    !name.eq_ignore_ascii_case(email)
}

/// One line without characters that only deceive.
fn plain(text: &str) -> String {
    cut(text, LONGEST).chars().filter(|c| !is_deceptive(*c)).collect::<String>().trim().to_owned()
}

fn known_groups(person: &Person) -> BTreeSet<String> {
    person.groups.iter().map(|group| plain(group)).filter(|group| !group.is_empty()).take(MOST_GROUPS).collect()
}
