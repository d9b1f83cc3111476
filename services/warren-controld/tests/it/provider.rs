//! A tiny identity provider on loopback that signs what a test wants it to sign.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::header::{AUTHORIZATION, LOCATION};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::sync::watch;
use warren_crypto::{UnixTime, sha256};
use warren_io::answer::{self, Body};
use warren_io::listener::{self, Caps};
use warren_io::routes::Routes;

pub const CLIENT_ID: &str = "warren";
pub const CLIENT_SECRET: &str = "planted-client-secret";

/// Everything secret that the provider hands out begins so: no log may have it.
pub const PLANTED: &str = "planted-";

type Twist = Box<dyn Fn(&mut Value) + Send>;

pub struct Provider {
    pub issuer: String,
    state: Arc<Mutex<State>>,
    stop: watch::Sender<bool>,
}

pub struct State {
    issuer: String,
    /// Who is signed in at the provider; their claims.
    pub person: Value,
    /// Changes the next ID tokens.
    pub twist: Option<Twist>,
    /// What signs, with its name.
    pub signer: (String, Ed25519KeyPair),
    /// Which keys are published.
    pub published: BTreeMap<String, Vec<u8>>,
    /// Accounts that were removed, by subject.
    pub removed: BTreeSet<String>,
    /// Answers everything with 503.
    pub is_down: bool,
    /// Says this instead of giving a code.
    pub declines: Option<&'static str>,
    /// `iss` in the answer to the browser, if other than the truth.
    pub named: Option<String>,
    /// Every refresh token is used once.
    pub rotates: bool,
    /// A person has one refresh token: a new sign-in takes the one before away.
    pub forgets: bool,
    /// What it says of a refresh token that it does not know.
    pub says_of_unknown: &'static str,
    /// The token endpoint decides at once and answers this much later.
    pub slow: std::time::Duration,
    codes: BTreeMap<String, Code>,
    refresh: BTreeMap<String, Value>,
    made: u32,
    /// How often a person had to prove themselves anew.
    pub asked_anew: u32,
    /// Forms that were posted to the token endpoint.
    pub asked: Vec<BTreeMap<String, String>>,
}

struct Code {
    person: Value,
    nonce: String,
    challenge: String,
    redirect: String,
}

pub fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("a key")
}

impl Provider {
    pub async fn start() -> Self {
        let port = listener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a port");
        let issuer = format!("http://{}", port.local_addr().expect("bound"));
        let signer = ("k1".to_owned(), key(1));
        let published = [("k1".to_owned(), signer.1.public_key().as_ref().to_vec())].into();
        let state = Arc::new(Mutex::new(State {
            issuer: issuer.clone(),
            person: person("42", "ann@example.net"),
            twist: None,
            signer,
            published,
            removed: BTreeSet::new(),
            is_down: false,
            declines: None,
            named: None,
            rotates: true,
            forgets: false,
            says_of_unknown: "invalid_grant",
            slow: std::time::Duration::ZERO,
            codes: BTreeMap::new(),
            refresh: BTreeMap::new(),
            made: 0,
            asked_anew: 0,
            asked: Vec::new(),
        }));
        let shared = Arc::clone(&state);
        let routes = Routes::new().below("/", move |request, _| answer(Arc::clone(&shared), request));
        let (stop, shutdown) = watch::channel(false);
        tokio::spawn(listener::serve(port, Arc::new(routes), None, Caps::default(), shutdown));
        Self { issuer, state, stop }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}

pub fn person(subject: &str, email: &str) -> Value {
    json!({ "sub": subject, "email": email, "email_verified": true, "name": "Ann <i>Example</i>",
        "preferred_username": "ann", "groups": ["dev"] })
}

async fn answer(state: Arc<Mutex<State>>, request: Request<Incoming>) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = answer::read_body(body, 1 << 20, std::time::Duration::from_secs(10)).await.expect("a body");
    let query = url::form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect();
    let form = url::form_urlencoded::parse(&body).into_owned().collect();
    let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (response, wait) = {
        let mut state = state.lock().expect("no panic");
        if state.is_down {
            return answer::text(StatusCode::SERVICE_UNAVAILABLE, "down");
        }
        match head.uri.path() {
            "/.well-known/openid-configuration" => (state.discovery(), None),
            "/auth" => (state.authorize(query), None),
            "/token" => (state.token(form, authorization), Some(state.slow)),
            "/keys" => (state.keys(), None),
            "/userinfo" => (state.userinfo(authorization), None),
            path => panic!("nobody asks a provider for {path}"),
        }
    };
    if let Some(wait) = wait.filter(|wait| !wait.is_zero()) {
        tokio::time::sleep(wait).await;
    }
    response
}

impl State {
    /// Every refresh token is gone.
    pub fn forget(&mut self) {
        self.refresh.clear();
    }

    fn discovery(&self) -> Response<Body> {
        let at = |path: &str| format!("{}{path}", self.issuer);
        answer::json(&json!({
            "issuer": self.issuer, "authorization_endpoint": at("/auth"), "token_endpoint": at("/token"),
            "jwks_uri": at("/keys"), "userinfo_endpoint": at("/userinfo"), "response_types_supported": ["code"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "code_challenge_methods_supported": ["S256"], "authorization_response_iss_parameter_supported": true,
        }))
    }

    fn word(&mut self, kind: &str) -> String {
        self.made += 1;
        format!("{PLANTED}{kind}-{}", self.made)
    }

    fn authorize(&mut self, query: BTreeMap<String, String>) -> Response<Body> {
        assert_eq!((query["response_type"].as_str(), query["client_id"].as_str()), ("code", CLIENT_ID));
        assert_eq!(query["code_challenge_method"], "S256");
        // Who must prove themselves anew gives nothing for asking again.
        let is_for_now = query.get("max_age").is_some_and(|age| age == "0");
        assert!(query["scope"].contains("openid") && query["scope"].contains("offline_access") != is_for_now);
        self.asked_anew += u32::from(is_for_now);
        let mut back = url::Url::parse(&query["redirect_uri"]).expect("a redirect");
        let named = self.named.clone().unwrap_or_else(|| self.issuer.clone());
        back.query_pairs_mut().append_pair("state", &query["state"]).append_pair("iss", &named);
        match self.declines {
            Some(error) => {
                back.query_pairs_mut().append_pair("error", error).append_pair("error_description", "<b>no</b>");
            }
            None => {
                let code = self.word("code");
                let (nonce, challenge) = (query["nonce"].clone(), query["code_challenge"].clone());
                let redirect = query["redirect_uri"].clone();
                self.codes.insert(code.clone(), Code { person: self.person.clone(), nonce, challenge, redirect });
                back.query_pairs_mut().append_pair("code", &code);
            }
        }
        let mut response = answer::empty(StatusCode::SEE_OTHER);
        response.headers_mut().insert(LOCATION, back.as_str().parse().expect("a header"));
        response
    }

    fn token(&mut self, form: BTreeMap<String, String>, authorization: &str) -> Response<Body> {
        self.asked.push(form.clone());
        let expected = format!("Basic {}", STANDARD.encode(format!("{CLIENT_ID}:{CLIENT_SECRET}")));
        if authorization != expected {
            return refuse("invalid_client");
        }
        let (person, nonce) = match form["grant_type"].as_str() {
            "authorization_code" => {
                let Some(code) = self.codes.remove(&form["code"]) else { return refuse("invalid_grant") };
                let challenge = URL_SAFE_NO_PAD.encode(sha256(form["code_verifier"].as_bytes()));
                if challenge != code.challenge || form["redirect_uri"] != code.redirect {
                    return refuse("invalid_grant");
                }
                (code.person, Some(code.nonce))
            }
            _ => {
                let token = &form["refresh_token"];
                let known = if self.rotates { self.refresh.remove(token) } else { self.refresh.get(token).cloned() };
                let Some(known) = known else { return refuse(self.says_of_unknown) };
                let subject = known["sub"].as_str().expect("a subject").to_owned();
                if self.removed.contains(&subject) {
                    return refuse("invalid_grant");
                }
                // The account as it is now, if it is the one that is signed in.
                (if self.person["sub"] == known["sub"] { self.person.clone() } else { known }, None)
            }
        };
        if self.forgets {
            self.refresh.retain(|_, other| other["sub"] != person["sub"]);
        }
        let refresh = self.word("refresh");
        self.refresh.insert(refresh.clone(), person.clone());
        let id = self.id_token(&person, nonce);
        let access = format!("{}.{}", self.word("access"), person["sub"].as_str().expect("a subject"));
        answer::json(&json!({ "access_token": access, "token_type": "Bearer", "expires_in": 60, "id_token": id,
            "refresh_token": refresh }))
    }

    fn id_token(&self, person: &Value, nonce: Option<String>) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
        let now = UnixTime::from_duration(now).as_secs();
        let mut claims = json!({ "iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": nonce });
        for (name, value) in person.as_object().expect("claims") {
            claims[name] = value.clone();
        }
        if let Some(twist) = &self.twist {
            twist(&mut claims);
        }
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&json!({ "alg": "EdDSA", "kid": self.signer.0 })), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.signer.1.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    fn keys(&self) -> Response<Body> {
        let key = |(kid, x): (&String, &Vec<u8>)| {
            json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid,
                "x": URL_SAFE_NO_PAD.encode(x) })
        };
        answer::json(&json!({ "keys": self.published.iter().map(key).collect::<Vec<_>>() }))
    }

    fn userinfo(&self, authorization: &str) -> Response<Body> {
        let subject = authorization.rsplit_once('.').map(|(_, subject)| subject).unwrap_or_default();
        assert_eq!(self.person["sub"], subject, "userinfo is asked with the person's own token");
        answer::json(&self.person)
    }
}

fn refuse(error: &str) -> Response<Body> {
    let mut response = answer::json(&json!({ "error": error, "error_description": "no" }));
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response
}
