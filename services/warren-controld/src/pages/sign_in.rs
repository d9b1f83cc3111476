//! After the provider: add this device?, and why not.

use http::{Response, StatusCode};
use warren_control::{AuthId, Person, Waiting};
use warren_io::answer::Body;

use super::{device, escape, page, paragraph};
use crate::oidc::Errand;

/// Asks before anything is registered: whoever was sent a stranger's link sees here whose device it is.
pub(crate) fn confirm(id: AuthId, waiting: &Waiting, person: &Person, state: &str, form_token: &str) -> Response<Body> {
    page(StatusCode::OK, "Add this device?", &confirm_body(id, waiting, person, state, form_token))
}

fn confirm_body(id: AuthId, waiting: &Waiting, person: &Person, state: &str, form_token: &str) -> String {
    format!(
        "<p>You are signed in as {}. This device would become yours, with everything that you may \
         reach in this network:</p>{}\
         <p>Look at the device. Does its link end like that? If not, or if somebody sent you here, do not add it.</p>{}",
        signed_in_as(person),
        device(id, waiting),
        verdict_form(state, form_token, "Add this device", "Do not add it")
    )
}

/// Who the provider says that they are, as markup.
pub(super) fn signed_in_as(person: &Person) -> String {
    let shown = [&person.display_name, &person.email, &person.login, &person.subject];
    let name = shown.into_iter().find(|text| !text.is_empty()).map(|text| escape(text)).unwrap_or_default();
    match person.email.as_str() {
        "" => format!("<b>{name}</b>"),
        email if escape(email) == name => format!("<b>{name}</b>"),
        email => format!("<b>{name}</b> ({})", escape(email)),
    }
}

/// The question itself, with these two answers.
pub(super) fn verdict_form(state: &str, form_token: &str, yes: &str, no: &str) -> String {
    format!(
        "<form method=\"post\" action=\"/oidc/confirm/{}\"><input type=\"hidden\" name=\"token\" value=\"{}\">\
         <button class=\"main\" name=\"verdict\" value=\"add\">{}</button>\
         <button class=\"other\" name=\"verdict\" value=\"refuse\">{}</button></form>",
        escape(state),
        escape(form_token),
        escape(yes),
        escape(no)
    )
}

/// Why it goes no further, in the words that the log has, and what to do about it. What they signed in for is known
/// unless the sign-in itself is not; `is_over` if it may have been answered before.
pub(crate) fn refused(status: StatusCode, reason: &str, errand: Option<Errand>, is_over: bool) -> Response<Body> {
    page(status, "This did not work", &refused_body(reason, errand, is_over))
}

fn refused_body(reason: &str, errand: Option<Errand>, is_over: bool) -> String {
    let mut letters = reason.chars();
    let sentence: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    let next = match errand {
        Some(errand) => {
            let label = if is_over { "See what became of it" } else { "Try again" };
            format!("<a class=\"main\" href=\"{}\">{label}</a>", errand.page())
        }
        None => paragraph("Open the link that your device shows once more, in this browser."),
    };
    let nothing = match errand {
        Some(_) if is_over => "This changed nothing; an answer that was given before stands.",
        Some(Errand::Shell(_)) => "Nobody was let in, and the check still waits for the person whose device it is.",
        Some(Errand::Device(_)) => "No device was added.",
        None => "Nothing has happened.",
    };
    let help = "If it stays like this, tell an operator of this network what this page says.";
    format!("<p>{}.</p>{next}<p class=\"small\">{nothing} {help}</p>", escape(sentence.trim_end_matches('.')))
}

#[cfg(test)]
mod tests {
    use super::super::tests::waiting;
    use super::*;

    #[test]
    fn the_question_names_person_device_and_code_and_all_of_it_is_text() {
        let person =
            Person { display_name: "Ann <img src=x>".into(), email: "ann@example.net".into(), ..Person::default() };
        let body =
            confirm_body(AuthId::from_bytes([0xcd; 16]), &waiting("<b>x</b>", ""), &person, "st\"ate", "tok\"en");
        for part in [
            "Ann &lt;img src=x&gt;",
            "(ann@example.net)",
            "&lt;b&gt;x&lt;/b&gt;",
            "cdcdcd",
            "st&quot;ate",
            "tok&quot;en",
        ] {
            assert!(body.contains(part), "{part} in {body}");
        }
        assert!(body.contains("method=\"post\"") && !body.contains("<img") && !body.contains("<b>x"));
    }

    #[test]
    fn a_refusal_says_why_and_what_to_do() {
        let id = AuthId::from_bytes([1; 16]);
        let body = refused_body("the ID token <has> expired", Some(Errand::Device(id)), false);
        assert!(body.starts_with("<p>The ID token &lt;has&gt; expired.</p>"), "{body}");
        assert!(body.contains(&format!("/register/{id}")));
        let shell = refused_body("x", Some(Errand::Shell(id)), false);
        assert!(shell.contains(&format!("/auth/{id}")) && shell.contains("Nobody was let in"), "{shell}");
        assert!(refused_body("x", None, false).contains("Open the link"));
    }
}
