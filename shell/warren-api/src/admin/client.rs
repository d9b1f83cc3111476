//! A client of the admin API: over the server's Unix socket, or from far away with an API key.

use std::fmt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use url::Url;
use warren_crypto::UnixTime;

use super::shapes::{
    ApiKey, ApiKeysAnswer, ApproveRoutes, AskNode, AuthRequest, ChangeService, ChangesAnswer, CreateApiKey, CreateKey,
    CreateService, CreateUser, ExpireApiKey, ExpireKey, ExpireNode, Health, HideEndpoints, KeyAnswer, KeysAnswer,
    MoveNode, NewApiKey, Node, NodeAnswer, NodeAttributes, NodeSaid, NodesAnswer, Nothing, Policy, PolicyCheck,
    PreAuthKey, Problem, RegisterMachine, Service, ServiceAnswer, ServicesAnswer, SetApproved, SetAttribute,
    SetAuthorized, SetPolicy, SetRole, SetTags, SignOfLife, User, UserAnswer, UsersAnswer, WaitingAnswer,
    WaitingMachine,
};
use super::{BASE_PATH, HOST};

/// Largest answer that is read: ten thousand nodes are about 10 MiB.
const MAX_ANSWER_BYTES: usize = 64 << 20;

/// A server that has not answered by then will not.
const DEADLINE: Duration = Duration::from_secs(30);

/// Why an operator's wish was not granted.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Nobody listens there.
    #[error("no control server answers at {place} ({reason}); start one with: warren control serve")]
    NotRunning {
        /// The socket, or the server's URL.
        place: String,
        /// The system's word for it.
        reason: String,
    },
    /// The socket's file or the server does not let this user in.
    #[error("{place}: only root and the server's own user may administer it")]
    Denied {
        /// The socket, or the server's URL.
        place: String,
    },
    /// The server does not know the API key, or it has ended.
    #[error("{place} does not take this API key; it may have ended (on the server: warren control apikeys list)")]
    Key {
        /// The server's URL.
        place: String,
    },
    /// The server says no; `text` is for people.
    #[error("{text}")]
    Refused {
        /// HTTP status: 400 wrong, 404 no such thing, 409 not now.
        status: u16,
        /// One sentence.
        text: String,
    },
    /// The connection broke or timed out; whether it was done is not known.
    #[error("the control server at {place} stopped answering: {reason}")]
    Broken {
        /// The socket, or the server's URL.
        place: String,
        /// What happened.
        reason: String,
    },
    /// Not this contract.
    #[error("the control server's answer to {what} makes no sense: {reason}")]
    Nonsense {
        /// Path that was asked.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Talks to one control server. It makes a connection per request, so it can be cloned and shared.
#[derive(Clone, Debug)]
pub struct Client {
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    Socket(PathBuf),
    Remote(Remote),
}

/// A server elsewhere, and how it is asked.
#[derive(Clone)]
struct Remote {
    server: Url,
    authorization: HeaderValue,
    exchange: Exchange,
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("server", &self.server.as_str()).finish_non_exhaustive()
    }
}

/// Asks a server elsewhere: a request whose URI is absolute, how long its answer may be, and how long it may take.
/// Whoever has sockets and TLS gives one.
pub type Exchange = Arc<dyn Fn(Request<Full<Bytes>>, usize, Duration) -> Exchanging + Send + Sync>;

/// An answer in the making, or in a few words why there is none.
pub type Exchanging = Pin<Box<dyn Future<Output = Result<Response<Bytes>, String>> + Send>>;

/// A key that cannot be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no API key: one is a single word that begins wkey-api-")]
pub struct NotAnApiKey;

impl Client {
    /// A client of the server whose admin socket is `socket`.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { way: Way::Socket(socket.into()) }
    }

    /// A client of the server at `server` (`https://vpn.example.net`), with an API key.
    ///
    /// # Errors
    /// [`NotAnApiKey`].
    pub fn remote(server: Url, api_key: &str, exchange: Exchange) -> Result<Self, NotAnApiKey> {
        let is_word = api_key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let key = Some(api_key).filter(|key| is_word && key.starts_with("wkey-api-")).ok_or(NotAnApiKey)?;
        let mut authorization = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| NotAnApiKey)?;
        authorization.set_sensitive(true);
        Ok(Self { way: Way::Remote(Remote { server, authorization, exchange }) })
    }

    /// The socket, if it is asked over one.
    pub fn socket(&self) -> Option<&Path> {
        match &self.way {
            Way::Socket(path) => Some(path),
            Way::Remote(_) => None,
        }
    }

    /// Where the server is, for people.
    fn place(&self) -> String {
        match &self.way {
            Way::Socket(path) => path.display().to_string(),
            Way::Remote(remote) => remote.server.origin().ascii_serialization(),
        }
    }

    /// Whether the server and its database work.
    pub async fn health(&self) -> Result<Health, AdminError> {
        self.get("health").await
    }

    /// All people.
    pub async fn users(&self) -> Result<Vec<User>, AdminError> {
        Ok(self.get::<UsersAnswer>("user").await?.users)
    }

    /// One person, by decimal id or by a name that an operator or the provider answers for.
    pub async fn user(&self, name_or_id: &str) -> Result<User, AdminError> {
        let by = if is_number(name_or_id) { "id" } else { "name" };
        let found: UsersAnswer = self.get(&format!("user?{by}={}", encode(name_or_id))).await?;
        let missing = || AdminError::Refused { status: 404, text: format!("no such user: {name_or_id}") };
        let user = found.users.into_iter().next().ok_or_else(missing)?;
        match user.not_meant_by_name().filter(|_| by == "name") {
            Some(text) => Err(AdminError::Refused { status: 409, text }),
            None => Ok(user),
        }
    }

    /// Makes a person.
    pub async fn create_user(&self, wish: &CreateUser) -> Result<User, AdminError> {
        Ok(self.post::<UserAnswer>("user", wish).await?.user)
    }

    /// Gives a person (by decimal id) another name.
    pub async fn rename_user(&self, id: &str, name: &str) -> Result<User, AdminError> {
        let path = format!("user/{}/rename/{}", encode(id), encode(name));
        Ok(self.post::<UserAnswer>(&path, &Nothing {}).await?.user)
    }

    /// Gives a person (by decimal id) an office, or `member` for none.
    pub async fn set_role(&self, id: &str, role: &str) -> Result<User, AdminError> {
        let wish = SetRole { role: role.to_owned() };
        Ok(self.post::<UserAnswer>(&format!("user/{}/role", encode(id)), &wish).await?.user)
    }

    /// Forgets a person (by decimal id) who has no nodes.
    pub async fn delete_user(&self, id: &str) -> Result<(), AdminError> {
        self.delete(&format!("user/{}", encode(id))).await
    }

    /// Forgets a person (by decimal id) and all their nodes.
    pub async fn delete_user_with_nodes(&self, id: &str) -> Result<(), AdminError> {
        self.delete(&format!("user/{}?force=true", encode(id))).await
    }

    /// All nodes, or those of one person (name or decimal id).
    pub async fn nodes(&self, user: Option<&str>) -> Result<Vec<Node>, AdminError> {
        let path = match user {
            Some(user) => format!("node?user={}", encode(user)),
            None => "node".to_owned(),
        };
        Ok(self.get::<NodesAnswer>(&path).await?.nodes)
    }

    /// One node by decimal id.
    pub async fn node(&self, id: &str) -> Result<Node, AdminError> {
        Ok(self.get::<NodeAnswer>(&format!("node/{}", encode(id))).await?.node)
    }

    /// Gives nodes the addresses that they lack; one line for each change.
    pub async fn backfill_addresses(&self) -> Result<Vec<String>, AdminError> {
        Ok(self.post::<ChangesAnswer>("node/backfillips?confirmed=true", &Nothing {}).await?.changes)
    }

    /// Forgets a node.
    pub async fn delete_node(&self, id: &str) -> Result<(), AdminError> {
        self.delete(&format!("node/{}", encode(id))).await
    }

    /// Sets when a node's key expires.
    pub async fn expire_node(&self, id: &str, wish: &ExpireNode) -> Result<Node, AdminError> {
        Ok(self.post::<NodeAnswer>(&format!("node/{}/expire", encode(id)), wish).await?.node)
    }

    /// Gives a node to a person (name or decimal id).
    pub async fn move_node(&self, id: &str, user: &str) -> Result<Node, AdminError> {
        let wish = MoveNode { user: user.to_owned() };
        Ok(self.post::<NodeAnswer>(&format!("node/{}/user", encode(id)), &wish).await?.node)
    }

    /// Hides or shows where a node is in the underlay.
    pub async fn hide_endpoints(&self, id: &str, hide: bool) -> Result<Node, AdminError> {
        Ok(self.post::<NodeAnswer>(&format!("node/{}/endpoints", encode(id)), &HideEndpoints { hide }).await?.node)
    }

    /// Facts about a node that postures may ask for.
    pub async fn attributes(&self, id: &str) -> Result<NodeAttributes, AdminError> {
        self.get(&format!("node/{}/attributes", encode(id))).await
    }

    /// Sets one of them; its name begins with `custom:`.
    pub async fn set_attribute(&self, id: &str, name: &str, wish: &SetAttribute) -> Result<NodeAttributes, AdminError> {
        self.post(&format!("node/{}/attributes/{}", encode(id), encode(name)), wish).await
    }

    /// Takes one away.
    pub async fn remove_attribute(&self, id: &str, name: &str) -> Result<(), AdminError> {
        self.delete(&format!("node/{}/attributes/{}", encode(id), encode(name))).await
    }

    /// Asks a node for a sign of life.
    pub async fn ping_node(&self, id: &str) -> Result<SignOfLife, AdminError> {
        self.post(&format!("node/{}/ping", encode(id)), &Nothing {}).await
    }

    /// Asks a node's own c2n service.
    pub async fn ask_node(&self, id: &str, question: &AskNode) -> Result<NodeSaid, AdminError> {
        self.post(&format!("node/{}/c2n", encode(id)), question).await
    }

    /// Gives a node a name of its own.
    pub async fn rename_node(&self, id: &str, name: &str) -> Result<Node, AdminError> {
        let path = format!("node/{}/rename/{}", encode(id), encode(name));
        Ok(self.post::<NodeAnswer>(&path, &Nothing {}).await?.node)
    }

    /// Replaces a node's tags.
    pub async fn set_tags(&self, id: &str, tags: &[String]) -> Result<Node, AdminError> {
        let wish = SetTags { tags: tags.to_vec() };
        Ok(self.post::<NodeAnswer>(&format!("node/{}/tags", encode(id)), &wish).await?.node)
    }

    /// Replaces a node's approved routes.
    pub async fn approve_routes(&self, id: &str, routes: &[String]) -> Result<Node, AdminError> {
        let wish = ApproveRoutes { routes: routes.to_vec() };
        Ok(self.post::<NodeAnswer>(&format!("node/{}/approve_routes", encode(id)), &wish).await?.node)
    }

    /// Lets a node into the network, or keeps it out.
    pub async fn set_authorized(&self, id: &str, authorized: bool) -> Result<Node, AdminError> {
        let wish = SetAuthorized { authorized };
        Ok(self.post::<NodeAnswer>(&format!("node/{}/authorized", encode(id)), &wish).await?.node)
    }

    /// All join keys, secrets left out.
    pub async fn keys(&self) -> Result<Vec<PreAuthKey>, AdminError> {
        Ok(self.get::<KeysAnswer>("preauthkey").await?.pre_auth_keys)
    }

    /// Makes a join key. Its text is in this answer and never again.
    pub async fn create_key(&self, wish: &CreateKey) -> Result<PreAuthKey, AdminError> {
        Ok(self.post::<KeyAnswer>("preauthkey", wish).await?.pre_auth_key)
    }

    /// Ends a join key (by decimal id).
    pub async fn expire_key(&self, id: &str) -> Result<(), AdminError> {
        self.post::<Nothing>("preauthkey/expire", &ExpireKey { id: id.to_owned() }).await.map(drop)
    }

    /// Forgets a join key (by decimal id).
    pub async fn delete_key(&self, id: &str) -> Result<(), AdminError> {
        self.delete(&format!("preauthkey?id={}", encode(id))).await
    }

    /// All API keys, secrets left out.
    pub async fn api_keys(&self) -> Result<Vec<ApiKey>, AdminError> {
        Ok(self.get::<ApiKeysAnswer>("apikey").await?.api_keys)
    }

    /// Makes an API key. Its text is in this answer and never again.
    pub async fn create_api_key(&self, wish: &CreateApiKey) -> Result<NewApiKey, AdminError> {
        self.post("apikey", wish).await
    }

    /// Ends an API key.
    pub async fn expire_api_key(&self, which: &ExpireApiKey) -> Result<(), AdminError> {
        self.post::<Nothing>("apikey/expire", which).await.map(drop)
    }

    /// Forgets an API key (by its prefix).
    pub async fn delete_api_key(&self, prefix: &str) -> Result<(), AdminError> {
        self.delete(&format!("apikey/{}", encode(prefix))).await
    }

    /// All services.
    pub async fn services(&self) -> Result<Vec<Service>, AdminError> {
        Ok(self.get::<ServicesAnswer>("service").await?.vip_services)
    }

    /// One service by name, with or without `svc:`.
    pub async fn service(&self, name: &str) -> Result<Service, AdminError> {
        Ok(self.get::<ServiceAnswer>(&format!("service/{}", encode(name))).await?.service)
    }

    /// Makes a service.
    pub async fn create_service(&self, wish: &CreateService) -> Result<Service, AdminError> {
        Ok(self.post::<ServiceAnswer>("service", wish).await?.service)
    }

    /// Changes what is said of a service.
    pub async fn change_service(&self, name: &str, wish: &ChangeService) -> Result<Service, AdminError> {
        let path = format!("service/{}", encode(name));
        let body = self.send(Method::PUT, &path, Some(to_bytes(&path, wish)?)).await?;
        Ok(parse::<ServiceAnswer>(&path, &body)?.service)
    }

    /// Forgets a service.
    pub async fn delete_service(&self, name: &str) -> Result<(), AdminError> {
        self.delete(&format!("service/{}", encode(name))).await
    }

    /// Lets a node (by decimal id) be a host of a service, or no longer.
    pub async fn approve_host(&self, name: &str, node: &str, approved: bool) -> Result<Service, AdminError> {
        let path = format!("service/{}/hosts/{}", encode(name), encode(node));
        Ok(self.post::<ServiceAnswer>(&path, &SetApproved { approved }).await?.service)
    }

    /// The policy in force.
    pub async fn policy(&self) -> Result<Policy, AdminError> {
        self.get("policy").await
    }

    /// Puts a policy (HuJSON) in force.
    pub async fn set_policy(&self, text: &str) -> Result<Policy, AdminError> {
        let wish = SetPolicy { policy: text.to_owned() };
        let body = self.send(Method::PUT, "policy", Some(to_bytes("policy", &wish)?)).await?;
        parse("policy", &body)
    }

    /// Asks whether a policy would be accepted now, and what there would be to say about it.
    pub async fn check_policy(&self, text: &str) -> Result<PolicyCheck, AdminError> {
        self.post("policy/check", &SetPolicy { policy: text.to_owned() }).await
    }

    /// Machines that wait to be let in.
    pub async fn waiting(&self) -> Result<Vec<WaitingMachine>, AdminError> {
        Ok(self.get::<WaitingAnswer>("auth").await?.waiting)
    }

    /// Lets a waiting machine in as a device of `user` (name or decimal id).
    pub async fn register(&self, user: &str, auth_id: &str) -> Result<Node, AdminError> {
        let wish = RegisterMachine { user: user.to_owned(), auth_id: auth_id.to_owned() };
        Ok(self.post::<NodeAnswer>("auth/register", &wish).await?.node)
    }

    /// Lets a waiting machine in where it is clear whose it is.
    pub async fn approve(&self, auth_id: &str) -> Result<(), AdminError> {
        self.post::<Nothing>("auth/approve", &AuthRequest { auth_id: auth_id.to_owned() }).await.map(drop)
    }

    /// Turns a waiting machine away.
    pub async fn reject(&self, auth_id: &str) -> Result<(), AdminError> {
        self.post::<Nothing>("auth/reject", &AuthRequest { auth_id: auth_id.to_owned() }).await.map(drop)
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, AdminError> {
        parse(path, &self.send(Method::GET, path, None).await?)
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, AdminError> {
        parse(path, &self.send(Method::POST, path, Some(to_bytes(path, body)?)).await?)
    }

    async fn delete(&self, path: &str) -> Result<(), AdminError> {
        self.send(Method::DELETE, path, None).await.map(drop)
    }

    async fn send(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, AdminError> {
        let broken = |reason: String| AdminError::Broken { place: self.place(), reason };
        match tokio::time::timeout(DEADLINE, self.exchange(method, path, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(broken(format!("no answer within {} s", DEADLINE.as_secs()))),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Option<Bytes>) -> Result<Bytes, AdminError> {
        match &self.way {
            Way::Socket(socket) => self.exchange_by_socket(socket, method, path, body).await,
            Way::Remote(remote) => self.exchange_afar(remote, method, path, body).await,
        }
    }

    async fn exchange_afar(
        &self,
        remote: &Remote,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Bytes, AdminError> {
        let nonsense = |reason: String| AdminError::Nonsense { what: path.to_owned(), reason };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{BASE_PATH}{path}", remote.server.as_str().trim_end_matches('/')))
            .header(CONTENT_TYPE, "application/json")
            .header(AUTHORIZATION, remote.authorization.clone())
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| nonsense(error.to_string()))?;
        let answer = (remote.exchange)(request, MAX_ANSWER_BYTES, DEADLINE).await;
        let (head, body) = answer.map_err(|reason| AdminError::Broken { place: self.place(), reason })?.into_parts();
        if head.status.is_success() { Ok(body) } else { Err(self.refusal(head.status, &body)) }
    }

    async fn exchange_by_socket(
        &self,
        socket: &Path,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Bytes, AdminError> {
        let broken = |reason: String| AdminError::Broken { place: self.place(), reason };
        let stream = UnixStream::connect(socket).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => AdminError::Denied { place: self.place() },
            _ => AdminError::NotRunning { place: self.place(), reason: error.to_string() },
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| broken(error.to_string()))?;
        let request = Request::builder()
            .method(method)
            .uri(format!("{BASE_PATH}{path}"))
            .header(http::header::HOST, HOST)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body.unwrap_or_default()))
            .map_err(|error| AdminError::Nonsense { what: path.to_owned(), reason: error.to_string() })?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| broken(error.to_string()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(|error| broken(error.to_string()))?.to_bytes()))
        };
        // The connection lives in this future, so nothing is left behind when the caller gives up.
        let (status, body) = {
            tokio::pin!(exchange, connection);
            tokio::select! {
                biased;
                answer = &mut exchange => answer?,
                ended = &mut connection => match ended {
                    // A server that closes after its answer ends the connection first; the answer is there already.
                    Ok(()) => exchange.await?,
                    Err(error) => return Err(broken(error.to_string())),
                },
            }
        };
        if status.is_success() { Ok(body) } else { Err(self.refusal(status, &body)) }
    }

    fn refusal(&self, status: StatusCode, body: &[u8]) -> AdminError {
        let is_remote = matches!(self.way, Way::Remote(_));
        if is_remote && status == StatusCode::UNAUTHORIZED {
            return AdminError::Key { place: self.place() };
        }
        if !is_remote && matches!(status, StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED) {
            return AdminError::Denied { place: self.place() };
        }
        let text = match serde_json::from_slice::<Problem>(body) {
            Ok(problem) if !problem.detail.is_empty() => problem.detail,
            _ => String::from_utf8_lossy(body).trim().to_owned(),
        };
        let text = if text.is_empty() { format!("HTTP status {status}") } else { text };
        AdminError::Refused { status: status.as_u16(), text }
    }
}

impl CreateKey {
    /// The same wish, expiring `lifetime` after `now`.
    #[must_use]
    pub fn expiring(self, now: UnixTime, lifetime: Duration) -> Self {
        Self { expiration: Some(now.saturating_add(lifetime)), ..self }
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn to_bytes(what: &str, value: &impl Serialize) -> Result<Bytes, AdminError> {
    let nonsense = |error: serde_json::Error| AdminError::Nonsense { what: what.to_owned(), reason: error.to_string() };
    serde_json::to_vec(value).map(Bytes::from).map_err(nonsense)
}

fn parse<T: DeserializeOwned>(what: &str, body: &[u8]) -> Result<T, AdminError> {
    let nonsense = |error: serde_json::Error| AdminError::Nonsense { what: what.to_owned(), reason: error.to_string() };
    serde_json::from_slice(body).map_err(nonsense)
}

/// One path segment or query value.
fn encode(text: &str) -> String {
    // Form encoding writes a space as `+`, which a path would keep.
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>().replace('+', "%20")
}
