//! After the provider: add this device?, and why not.

use http::{Response, StatusCode};
use warren_control::{AuthId, Person, Waiting};
use warren_io::answer::Body;

use super::{device, escape, page, paragraph};

/// Asks before anything is registered: whoever was sent a stranger's link sees here whose device it is.
pub(crate) fn confirm(id: AuthId, waiting: &Waiting, person: &Person, state: &str, form_token: &str) -> Response<Body> {
    page(StatusCode::OK, "Add this device?", &confirm_body(id, waiting, person, state, form_token))
}

fn confirm_body(id: AuthId, waiting: &Waiting, person: &Person, state: &str, form_token: &str) -> String {
    let shown = [&person.display_name, &person.email, &person.login, &person.subject];
    let name = shown.into_iter().find(|text| !text.is_empty()).map(|text| escape(text)).unwrap_or_default();
    let address = match person.email.as_str() {
        "" => String::new(),
        email if escape(email) == name => String::new(),
        email => format!(" ({})", escape(email)),
    };
    format!(
        "<p>You are signed in as <b>{name}</b>{address}. This device would become yours, with everything that you may \
         reach in this network:</p>{}\
         <p>Look at the device. Does its link end like that? If not, or if somebody sent you here, do not add it.</p>\
         <form method=\"post\" action=\"/oidc/confirm/{}\"><input type=\"hidden\" name=\"token\" value=\"{}\">\
         <button class=\"main\" name=\"verdict\" value=\"add\">Add this device</button>\
         <button class=\"other\" name=\"verdict\" value=\"refuse\">Do not add it</button></form>",
        device(id, waiting),
        escape(state),
        escape(form_token)
    )
}

/// Why it goes no further, in the words that the log has, and what to do about it. `id` is known unless the sign-in
/// itself is not.
pub(crate) fn refused(status: StatusCode, reason: &str, id: Option<AuthId>) -> Response<Body> {
    page(status, "This did not work", &refused_body(reason, id))
}

fn refused_body(reason: &str, id: Option<AuthId>) -> String {
    let mut letters = reason.chars();
    let sentence: String = letters.next().into_iter().flat_map(char::to_uppercase).chain(letters).collect();
    let next = match id {
        Some(id) => format!("<a class=\"main\" href=\"/register/{id}\">Try again</a>"),
        None => paragraph("Open the link that your device shows once more, in this browser."),
    };
    let help = "No device was added. If it stays like this, tell an operator of this network what this page says.";
    format!("<p>{}.</p>{next}<p class=\"small\">{help}</p>", escape(sentence.trim_end_matches('.')))
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
        let body = refused_body("the ID token <has> expired", Some(id));
        assert!(body.starts_with("<p>The ID token &lt;has&gt; expired.</p>"), "{body}");
        assert!(body.contains(&format!("/register/{id}")));
        assert!(refused_body("x", None).contains("Open the link"));
    }
}
