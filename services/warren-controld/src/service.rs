//! A control server that runs: opened from its configuration, answering on whatever port the roof opens for it.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::sync::watch;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};
use warren_api::admin::BASE_PATH;
use warren_control::{Actor, Answer, Command, Control, RowsError, What};
use warren_crypto::{MachinePublic, MachineSecret};
use warren_io::answer::{self, Body};
use warren_io::debug_counters;
use warren_io::listener::{self, Peer};
use warren_io::local_socket::{self, LocalListener, OpenTo};
use warren_io::routes::Routes;
use warren_io::web_socket::Origins;
use warren_store::{LoadError, OpenError, Store};
use warren_wire::ServerKeys;

use crate::admission::{self, Admission};
use crate::api_door::{self, Failures};
use crate::ask_node::{self, Bells};
use crate::concerns::Concerns;
use crate::config::{Config, ConfigError};
use crate::device_attributes::Turns;
use crate::download::Download;
use crate::id_token::Issuer;
use crate::noise_endpoint::{self, DroppedChannels, Machine};
use crate::oidc::{self, SignIn};
use crate::random::Seeds;
use crate::registry::{CommandError, Registry};
use crate::relay_map::{self, Relays};
use crate::reload::{self, Reload};
use crate::set_dns::Hook;
use crate::ssh_checks::SshChecks;
use crate::state_dir::{self, StateError};
use crate::writer::{Writer, WriterError};
use crate::{admin_door, clock, errands, extra_records, id_token, pages};

/// What all handlers share.
pub(crate) struct Shared {
    pub(crate) server_url: String,
    pub(crate) noise_key: MachineSecret,
    /// Pages that may open a control channel.
    pub(crate) origins: Origins,
    pub(crate) registry: Registry,
    pub(crate) seeds: Seeds,
    /// How the server asks nodes.
    pub(crate) bells: Bells,
    /// Shell sessions that wait for a check.
    pub(crate) ssh_checks: SshChecks,
    /// How often nodes change facts about themselves.
    pub(crate) attribute_turns: Turns,
    /// Places of those who compress much at once.
    pub(crate) packers: Arc<tokio::sync::Semaphore>,
    /// Whether API keys may come by plain HTTP from elsewhere.
    pub(crate) api_over_plain_http: bool,
    /// Who asked the API without a good key.
    pub(crate) api_failures: Failures,
    /// The number of the next Noise channel.
    pub(crate) next_channel: AtomicU64,
    /// Control channels that came to nothing.
    pub(crate) dropped: Arc<DroppedChannels>,
    /// The longest silence on a map stream.
    pub(crate) keep_alive: Duration,
    pub(crate) download: Download,
    pub(crate) policy_file: Option<std::path::PathBuf>,
    /// Signs nodes' tokens.
    pub(crate) issuer: Issuer,
    /// Makes the records by which nodes get certificates, if anything does.
    pub(crate) set_dns: Option<Hook>,
    /// Where people sign in, if they do.
    pub(crate) sign_in: Option<SignIn>,
    /// Who else than root may administer: the user that the server runs as.
    pub(crate) owner: u32,
    pub(crate) noise_routes: Arc<Routes<(Arc<Shared>, Machine)>>,
    /// Turns true when everything should end.
    pub(crate) shutdown: watch::Receiver<bool>,
    /// What is wrong without stopping anything.
    pub(crate) concerns: Concerns,
    /// Whether writer and database answered, and when.
    pub(crate) health: tokio::sync::Mutex<Option<(std::time::Instant, bool)>>,
    /// Channels and streams, which outlive the request that began them.
    pub(crate) tasks: TaskTracker,
}

/// Why a control server does not start. Each is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Folder or key.
    #[error(transparent)]
    State(#[from] StateError),
    /// The database.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// Its content.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// What its content means.
    #[error("the control database cannot be used: {0}")]
    Rows(#[from] RowsError),
    /// The admin socket.
    #[error(transparent)]
    Socket(#[from] local_socket::BindError),
    /// The public port.
    #[error(transparent)]
    Port(#[from] listener::BindError),
    /// The policy file.
    #[error("policy file {}: {reason}", .path.display())]
    Policy {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Something of the operating system.
    #[error("{what}")]
    Os {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

/// Why a control server stopped before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// It had to stop answering.
    #[error("the control server stopped")]
    Writer(#[from] WriterError),
    /// A mistake in the rules themselves.
    #[error("the control server's writer panicked; its log has the reason")]
    Panicked,
}

/// A control server: state open, registry loaded, writer at work, nobody let in yet.
pub struct Service {
    shared: Arc<Shared>,
    writer: AbortOnDropHandle<Result<(), WriterError>>,
    admin: LocalListener,
    stop: watch::Sender<bool>,
    /// Told when nobody has anything to write any more.
    stop_writer: watch::Sender<bool>,
    reload: Reload,
}

impl Service {
    /// Opens state, database and admin socket and starts the writer. Undoes itself on error. Needs a tokio runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn open(config: &Config) -> Result<Self, StartError> {
        let os = |what| move |source| StartError::Os { what, source };
        let mut settings = config.settings()?;
        let seeds = Seeds::from_system().map_err(os("get randomness"))?;
        state_dir::prepare(&config.state_dir)?;
        let noise_key = state_dir::noise_key(&config.state_dir, &mut seeds.fork())?;
        let relays = Relays::open(config.relay_sources(), &config.state_dir).await.map_err(ConfigError::from)?;
        settings.relay_map = relays.map();
        let mut store = Store::open(&config.state_dir.join("control.db")).await?;
        let mut rows = store.load().await?;
        let control = match Control::from_rows(&rows, settings.clone(), clock::now()) {
            Err(RowsError::Policy(reason)) if config.policy_file.is_some() => {
                // The file takes its place before anybody is let in; if that cannot be, the server does not start.
                tracing::warn!(reason, "the stored policy cannot be read; the policy file replaces it");
                rows.policy = None;
                Control::from_rows(&rows, settings, clock::now())?
            }
            opened => opened?,
        };
        if let Some(folder) = config.socket.parent() {
            make_run_folder(folder).map_err(os("make the folder of the admin socket"))?;
        }
        let admin = local_socket::bind(&config.socket, OpenTo::Owner).await?;
        let download = Download::open(config.executable.as_deref()).map_err(os("open the program to hand out"))?;
        let (stop, shutdown) = watch::channel(false);
        let (stop_writer, end_of_writer) = watch::channel(false);
        let probing = control.settings().probing;
        let (registry, ends, errands) = Registry::new(control.snapshot());
        let writer = Writer::new(control, store, seeds.fork(), ends);
        let service = Self {
            writer: AbortOnDropHandle::new(tokio::spawn(writer.run(end_of_writer))),
            shared: Arc::new(Shared {
                server_url: config.server_url.clone(),
                sign_in: SignIn::open(config, &noise_key)?,
                noise_key,
                origins: config.origins()?,
                registry,
                seeds,
                bells: Bells::default(),
                ssh_checks: SshChecks::default(),
                attribute_turns: Turns::default(),
                packers: Arc::new(tokio::sync::Semaphore::new(cores())),
                api_over_plain_http: config.api_over_plain_http,
                api_failures: Failures::default(),
                next_channel: AtomicU64::new(1),
                dropped: Arc::default(),
                keep_alive: config.keep_alive_interval,
                download,
                policy_file: config.policy_file.clone(),
                issuer: Issuer::open(&config.state_dir)?,
                set_dns: config.set_dns_command.as_deref().map(Hook::new),
                owner: nix::unistd::geteuid().as_raw(),
                noise_routes: Arc::new(noise_endpoint::routes()),
                shutdown,
                concerns: Concerns::default(),
                health: tokio::sync::Mutex::default(),
                tasks: TaskTracker::new(),
            }),
            admin,
            stop,
            stop_writer,
            reload: Reload::new(),
        };
        let running = errands::run(Arc::clone(&service.shared), errands, probing.answer_within);
        service.shared.tasks.spawn(running);
        if let Some(path) = config.dns_extra_records_file.clone() {
            let (registry, shutdown) = (service.shared.registry.clone(), service.shared.shutdown.clone());
            let problem = service.concern("extra names");
            let asked = service.reload.asked();
            service.shared.tasks.spawn(extra_records::follow(path, registry, asked, problem, shutdown));
        }
        service.follow_relays(relays);
        match service.shared.take_policy_file().await {
            Ok(_) => {
                let (shared, problem) = (Arc::clone(&service.shared), service.concern("policy"));
                service.shared.tasks.spawn(reload::follow_policy(shared, service.reload.asked(), problem));
                Ok(service)
            }
            Err(error) => {
                service.close().await;
                Err(error)
            }
        }
    }

    /// The server's Noise key, as `GET /key` tells it.
    pub fn server_key(&self) -> MachinePublic {
        self.shared.noise_key.public()
    }

    /// The registry, for whoever runs this server in process (`quickstart` makes its first user and key by it).
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// Whoever runs something beside this server says here what is wrong with it: `what` is a word or two for the operator.
    pub fn add_concern(&self, what: &'static str, watched: watch::Receiver<Option<String>>) {
        self.shared.concerns.add(what, watched);
    }

    /// By which this server is told to read its files again.
    pub fn reload(&self) -> Reload {
        self.reload.clone()
    }

    /// A new concern, without any reason for it yet.
    fn concern(&self, what: &'static str) -> watch::Sender<Option<String>> {
        let (problem, watched) = watch::channel(None);
        self.add_concern(what, watched);
        problem
    }

    /// The relay beside us asks here.
    pub fn admission(&self) -> Admission {
        Admission::new(self.shared.registry.snapshots())
    }

    /// SHA-256 in hex of what `/get/…` serves, if it serves anything. Reads the whole file the first time.
    pub async fn executable_sha256(&self) -> Option<String> {
        self.shared.download.sha256().await.map(str::to_owned)
    }

    /// What came in by the control channel and was dropped, as `/debug/counters` shows it. Outlives the service.
    pub fn counters(&self) -> impl Fn() -> serde_json::Value + Send + Sync + 'static {
        let dropped = Arc::clone(&self.shared.dropped);
        move || dropped.to_json()
    }

    /// What this service answers on a shared public port.
    pub fn routes(&self) -> Routes<Peer> {
        let shared = || Arc::clone(&self.shared);
        // A handler that needs to know nothing about its caller.
        macro_rules! to {
            ($handler:path) => {{
                let shared = shared();
                move |request: Request<Incoming>, _: Peer| $handler(Arc::clone(&shared), request)
            }};
        }
        let (for_upgrade, for_sign_in, for_api) = (shared(), shared(), shared());
        let counters = self.counters();
        Routes::new()
            .at("/ts2021", move |request, peer| noise_endpoint::upgrade(Arc::clone(&for_upgrade), request, peer))
            .at("/key", to!(key))
            .at("/verify", to!(admission::verify))
            .at("/machine/ping-response", to!(ask_node::ping_response))
            .at("/health", to!(health))
            .at("/.well-known/openid-configuration", to!(id_token::discovery))
            .at("/.well-known/jwks.json", to!(id_token::keys))
            .at("/version", |_, _| async { version() })
            .at("/debug/counters", move |_, peer: Peer| {
                let answer = debug_counters::answer(&peer, serde_json::Value::Null, &[("control", counters())]);
                async move { answer }
            })
            .at("/robots.txt", |_, _| async { answer::text(StatusCode::OK, "User-agent: *\nDisallow: /") })
            .at("/", to!(pages::root))
            .at("/join", to!(pages::join))
            .below("/register/", to!(pages::register))
            .below("/oidc/start/", move |request, peer| oidc::flow::start(Arc::clone(&for_sign_in), request, peer))
            .at(oidc::CALLBACK, to!(oidc::flow::callback))
            .below("/oidc/confirm/", to!(oidc::flow::confirm))
            .below("/auth/", to!(pages::shell))
            .below(BASE_PATH, move |request, peer| api_door::answer(Arc::clone(&for_api), request, peer))
            .below("/get/", to!(crate::download::answer))
    }

    /// Serves the admin socket until `shutdown` turns true, then ends streams, saves and closes. The public port is the
    /// roof's to serve, with [`Service::routes`]. Dropping the future is what a crash is: nothing answered is lost.
    ///
    /// # Errors
    /// [`RunError`]: the writer ended by itself; everything has been stopped.
    pub async fn run(mut self, mut shutdown: watch::Receiver<bool>) -> Result<(), RunError> {
        let fresh = SignIn::keep_fresh(Arc::clone(&self.shared), self.shared.shutdown.clone());
        self.shared.tasks.spawn(fresh);
        let ended = tokio::select! {
            () = admin_door::serve(&self.admin, Arc::clone(&self.shared)) => None,
            () = clock::told(&mut shutdown) => None,
            ended = &mut self.writer => Some(ended),
        };
        match ended {
            None => self.close().await.unwrap_or(Err(RunError::Panicked)),
            Some(ended) => {
                self.stop.send_replace(true);
                ended.map_err(|_| RunError::Panicked)?.map_err(RunError::from)
            }
        }
    }

    /// `None`: the writer panicked.
    async fn close(self) -> Option<Result<(), RunError>> {
        self.stop.send_replace(true);
        self.shared.tasks.close();
        // Every task watches `stop`; none waits for anything else without a deadline of its own.
        self.shared.tasks.wait().await;
        self.stop_writer.send_replace(true);
        self.writer.await.ok().map(|ended| ended.map_err(RunError::from))
    }

    fn follow_relays(&self, relays: Relays) {
        let (registry, mut shutdown) = (self.shared.registry.clone(), self.shared.shutdown.clone());
        let (asked, problem) = (self.reload.asked(), self.concern("relay map"));
        self.shared.tasks.spawn(async move {
            tokio::select! {
                () = relay_map::follow(relays, registry, asked, problem) => {}
                () = clock::told(&mut shutdown) => {}
            }
        });
    }
}

impl Shared {
    /// Puts what is in the policy file in force; whether that is another policy than before.
    ///
    /// # Errors
    /// [`StartError::Policy`]: nothing has changed.
    pub(crate) async fn take_policy_file(&self) -> Result<bool, StartError> {
        let Some(path) = &self.policy_file else { return Ok(false) };
        let problem = |reason: String| StartError::Policy { path: path.clone(), reason };
        let text = tokio::fs::read_to_string(path).await.map_err(|error| problem(error.to_string()))?;
        if self.registry.snapshot().registry().policy().is_some_and(|stored| stored.text == text) {
            return Ok(false);
        }
        let actor = Actor::Operator { name: path.display().to_string(), door: "policy file" };
        match self.registry.command(Command { actor, what: What::ReplacePolicy { text } }).await {
            Ok(Answer::Policy { warnings, .. }) => {
                for warning in warnings {
                    tracing::warn!(path = %path.display(), %warning, "policy");
                }
                Ok(true)
            }
            Ok(_) => Ok(true),
            Err(CommandError::Refused(refusal)) => Err(problem(refusal.to_string())),
            Err(error) => Err(problem(error.to_string())),
        }
    }
}

/// A control server alone on its port, without a relay and without TLS, until `shutdown` turns true. The roof that
/// merges several services does the same with more routes.
///
/// # Errors
/// [`RunError`].
pub async fn run(config: &Config, shutdown: watch::Receiver<bool>) -> Result<(), RunError> {
    let port = listener::bind(config.listen).map_err(StartError::from)?;
    let service = Service::open(config).await?;
    let routes = Arc::new(service.routes());
    let serving = listener::serve(port, routes, None, listener::Caps::default(), shutdown.clone());
    tokio::select! {
        ended = service.run(shutdown) => ended,
        // It ends by the same signal, which `run` then acts on; until `run` is done this arm must not be.
        ended = async { serving.await; std::future::pending().await } => ended,
    }
}

async fn key(shared: Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer::text(StatusCode::METHOD_NOT_ALLOWED, "use GET");
    }
    let query = request.uri().query().unwrap_or_default();
    let version = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "v");
    if version.and_then(|(_, text)| text.parse::<u32>().ok()).is_none() {
        return answer::text(StatusCode::BAD_REQUEST, "say your capability version: /key?v=113");
    }
    answer::json(&ServerKeys { legacy_public_key: None, public_key: shared.noise_key.public() })
}

async fn health(shared: Arc<Shared>, _request: Request<Incoming>) -> Response<Body> {
    /// Anybody may ask, and each look takes the writer's time.
    const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
    let mut last = shared.health.lock().await;
    let works = match *last {
        Some((at, works)) if at.elapsed() < BETWEEN_LOOKS => works,
        _ => {
            let works = tokio::time::timeout(Duration::from_secs(5), shared.registry.check()).await.unwrap_or(false);
            *last = Some((clock::now(), works));
            works
        }
    };
    drop(last);
    let (status, word) = match works {
        // It works, but somebody should look: the log and `warren control health` say at what.
        true if !shared.concerns.list().is_empty() => (StatusCode::OK, "warn"),
        true => (StatusCode::OK, "pass"),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "fail"),
    };
    answer::content(status, "application/health+json", format!("{{\"status\":\"{word}\"}}"))
}

fn version() -> Response<Body> {
    answer::json(&serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "product": "warren" }))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(2, std::num::NonZero::get)
}

/// The folder of a socket is nobody else's: mode 0700 if we make it, as it is if it was there.
fn make_run_folder(folder: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    if folder.as_os_str().is_empty() {
        return Ok(());
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
