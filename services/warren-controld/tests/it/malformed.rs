//! Requests that are none, and what each is answered: the table of `docs/operators/bad-input.md`, row for row.

use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use warren_api::admin::CreateUser;
use warren_controld::Overrides;
use warren_crypto::{NodeSecret, Random};
use warren_io::listener::Caps;
use warren_io::{DialOptions, dial_control};
use warren_wire::CapabilityVersion;

use crate::client::Machine;
use crate::doors::{converse, get, request};
use crate::world::{PATIENCE, World, start, start_with};

const DOCUMENT: &str = include_str!("../../../../docs/operators/bad-input.md");

/// Where a request comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    /// The public port.
    Port,
    /// Inside a control channel of a machine that has no node.
    Channel,
    /// Inside a control channel of a node that is in.
    Node,
    /// The admin socket.
    Admin,
}
use Door::{Admin, Channel, Node, Port};

struct Row {
    door: Door,
    asked: &'static str,
    /// In the table's words.
    wrong: &'static str,
    body: Vec<u8>,
    headers: Vec<(&'static str, &'static str)>,
    status: u16,
    /// The beginning of the one line that a person reads; what follows is the parser's.
    answer: &'static str,
}

fn row(
    door: Door,
    asked: &'static str,
    wrong: &'static str,
    body: impl Into<Vec<u8>>,
    status: u16,
    answer: &'static str,
) -> Row {
    Row { door, asked, wrong, body: body.into(), headers: Vec::new(), status, answer }
}

const TOO_LONG: &str = "the request is longer than 65536 bytes";
const TOO_OLD: &str = "this client is too old (capability version 112): this network needs 113";

const DEEP: &str = "ten thousand levels in a field that nobody knows";

/// A field that nobody knows, with lists in lists.
fn deep() -> String {
    format!("{{\"Version\":130,\"Unknown\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000))
}

fn rows(foreign: &str) -> Vec<Row> {
    let key = NodeSecret::from_seed([77; 32]).public().to_string();
    let says = |version: &str, more: &str| format!("{{\"Version\":{version},\"NodeKey\":\"{key}\"{more}}}");
    let mut rows = vec![
        row(Port, "GET /key", "no version", "", 400, "say your capability version: /key?v=113"),
        row(Port, "GET /key?v=new", "not a number", "", 400, "say your capability version: /key?v=113"),
        row(Port, "GET /key?v=-1", "below zero", "", 400, "say your capability version: /key?v=113"),
        row(Port, "POST /key?v=113", "wrong method", "", 405, "use GET"),
        row(Port, "GET /ts2021", "wrong method", "", 405, "use POST, or GET for a WebSocket"),
        row(Port, "POST /ts2021", "no upgrade", "", 400, "missing next protocol; a proxy on the way must forward POST"),
        row(Port, "GET /verify", "wrong method", "", 405, "use POST"),
        row(Port, "POST /verify", "not JSON", "{", 400, "not an admission request: "),
        row(Port, "POST /verify", "wrong types", "{\"NodePublic\":[1]}", 400, "not an admission request: "),
        row(Port, "POST /verify", "too large", vec![b' '; 5000], 413, "the request is longer than 4096 bytes"),
        row(Port, "GET /register/nonsense", "no such link", "", 404, "<h1>This link is not complete</h1>"),
        row(
            Port,
            "GET /register/wkey-req-00000000000000000000000000000000",
            "an old or guessed link",
            "",
            404,
            "<h1>This link is not good any more</h1>",
        ),
        row(Port, "GET /oidc/callback?state=a&code=b", "nobody signs in here", "", 404, "<h1>This did not work</h1>"),
        row(Port, "GET /get/plan9-mips", "no such program", "", 404, ""),
        row(Port, "GET /nonsense", "no such address", "", 404, "there is nothing at this address"),
        row(Channel, "GET /machine/register", "wrong method", "", 405, "use POST"),
        row(
            Channel,
            "POST /machine/register",
            "nothing",
            "",
            400,
            "not a registration: it ends too early, at line 1, column 0",
        ),
        row(Channel, "POST /machine/register", "not JSON", "GET / HTTP/1.1\r\n\r\n", 400, "not a registration: "),
        row(Channel, "POST /machine/register", "wrong types", "{\"Version\":[]}", 400, "not a registration: "),
        row(Channel, "POST /machine/register", DEEP, deep(), 200, "node key is missing"),
        row(Channel, "POST /machine/register", "too large", vec![b' '; (64 << 10) + 1], 413, TOO_LONG),
        row(
            Channel,
            "POST /machine/register",
            "not UTF-8",
            b"{\"Version\":130,\"Hostinfo\":{\"Hostname\":\"a\xff\"}}",
            400,
            "not a registration: ",
        ),
        row(Channel, "POST /machine/register", "no node key", "{\"Version\":130}", 200, "node key is missing"),
        row(
            Channel,
            "POST /machine/register",
            "a node key of zeros",
            format!("{{\"Version\":130,\"NodeKey\":\"nodekey:{}\"}}", "0".repeat(64)),
            200,
            "node key is missing",
        ),
        row(
            Channel,
            "POST /machine/register",
            "half a node key",
            "{\"Version\":130,\"NodeKey\":\"nodekey:00ff\"}",
            400,
            "not a registration: ",
        ),
        row(
            Channel,
            "POST /machine/register",
            "another machine's node key",
            format!("{{\"Version\":130,\"NodeKey\":\"{foreign}\"}}"),
            200,
            "node exists with a different machine key",
        ),
        row(Channel, "POST /machine/register", "a client below 113", says("112", ""), 400, TOO_OLD),
        row(Channel, "POST /machine/register", "a version below zero", says("-1", ""), 400, "not a registration: "),
        row(
            Channel,
            "POST /machine/register",
            "a version beyond numbers",
            says("1e300", ""),
            400,
            "not a registration: ",
        ),
        row(
            Channel,
            "POST /machine/register",
            "a link of somewhere else",
            says("130", ",\"Followup\":\"https://evil.example/\""),
            200,
            "invalid followup URL",
        ),
        row(
            Channel,
            "POST /machine/register",
            "a join key of somewhere else",
            says("130", ",\"Auth\":{\"AuthKey\":\"tskey-auth-1\"}"),
            200,
            "invalid pre auth key",
        ),
        row(Channel, "GET /machine/map", "wrong method", "", 405, "use POST"),
        row(Channel, "POST /machine/map", "not JSON", "\u{1}\u{2}", 400, "not a map request: "),
        row(Channel, "POST /machine/map", "half a zstd frame", b"\x28\xb5\x2f\xfd\x04", 400, "not a map request: "),
        row(Channel, "POST /machine/map", "wrong types", says("130", ",\"Endpoints\":{}"), 400, "not a map request: "),
        row(Channel, "POST /machine/map", DEEP, deep(), 404, "node not found"),
        row(Channel, "POST /machine/map", "too large", vec![b' '; (64 << 10) + 1], 413, TOO_LONG),
        row(Channel, "POST /machine/map", "a client below 113", says("112", ""), 400, TOO_OLD),
        row(
            Channel,
            "POST /machine/map",
            "a coding that nobody speaks",
            says("130", ",\"Compress\":\"lzw\""),
            400,
            "unknown compression \"lzw\": use zstd or none",
        ),
        row(Channel, "POST /machine/map", "a node key that nobody has", says("130", ""), 404, "node not found"),
        row(
            Channel,
            "POST /machine/map",
            "another machine's node key",
            format!("{{\"Version\":130,\"NodeKey\":\"{foreign}\"}}"),
            404,
            "node not found",
        ),
        row(Channel, "POST /machine/update-health", "not JSON", "x", 400, "not understood: "),
        row(
            Channel,
            "POST /machine/update-health",
            "too large",
            vec![b' '; 70_000],
            413,
            "the request is longer than 65536 bytes",
        ),
        row(
            Channel,
            "POST /machine/audit-log",
            "another machine's node key",
            format!("{{\"NodeKey\":\"{foreign}\"}}"),
            404,
            "node not found",
        ),
        row(Channel, "POST /machine/nonsense", "no such request", "", 404, "there is nothing at this address"),
    ];
    rows.extend(upgrades());
    rows.extend(shells());
    rows.extend(of_nodes(foreign));
    let problem = "the request's body: ";
    rows.extend([
        row(
            Admin,
            "POST /api/v1/node/1/attributes/custom:x",
            "no value",
            "{}",
            400,
            "say the value of \"custom:x\": a text, a number or a truth value",
        ),
        row(
            Admin,
            "POST /api/v1/node/1/attributes/node:os",
            "a name of the server's own",
            "{\"value\":1}",
            400,
            "\"node:os\" cannot be set as an attribute: a name is custom: and",
        ),
        row(Admin, "DELETE /api/v1/node/9999/attributes/custom:x", "nobody", "", 404, "no such node: 9999"),
        row(Admin, "POST /api/v1/user", "not JSON", "{", 400, problem),
        row(Admin, "POST /api/v1/user", "wrong types", "{\"name\":7}", 400, problem),
        row(Admin, "POST /api/v1/user", "no name", "{}", 400, "\"\" cannot be a user name: a short name of letters"),
        row(
            Admin,
            "POST /api/v1/user",
            "a name that is taken",
            "{\"name\":\"ann\"}",
            409,
            "user name \"ann\" is taken",
        ),
        row(
            Admin,
            "POST /api/v1/user",
            "too large",
            vec![b' '; (4 << 20) + 1],
            413,
            "the request is longer than 4194304 bytes",
        ),
        row(Admin, "PUT /api/v1/user", "wrong method", "", 404, "this API has no PUT /api/v1/user"),
        row(
            Admin,
            "POST /api/v1/user/1/role",
            "no role",
            "{\"role\":\"root\"}",
            400,
            "\"root\" is no role; there are owner, admin, it-admin, network-admin, billing-admin, auditor and member",
        ),
        row(Admin, "POST /api/v1/user/9999/role", "nobody", "{\"role\":\"admin\"}", 404, "no such user: 9999"),
        row(Admin, "GET /api/v1/node/x", "not a number", "", 400, "\"x\" is not the number of a node"),
        row(Admin, "GET /api/v1/node/-1", "below zero", "", 400, "\"-1\" is not the number of a node"),
        row(Admin, "GET /api/v1/node/9999", "nobody", "", 404, "no such node: 9999"),
        row(Admin, "POST /api/v1/node/1/rename/%ff", "not UTF-8", "", 400, "the path is not UTF-8"),
        row(
            Admin,
            "POST /api/v1/node/1/rename/..%2Fx",
            "not a name",
            "",
            400,
            "\"../x\" cannot be a node's name: 1 to 63 of a-z, 0-9 and -",
        ),
        row(
            Admin,
            "POST /api/v1/node/1/tags",
            "not a tag",
            "{\"tags\":[\"$(id)\"]}",
            400,
            "\"$(id)\" is not a tag: write tag: and a name",
        ),
        row(
            Admin,
            "POST /api/v1/node/1/approve_routes",
            "not a prefix",
            "{\"routes\":[\"10.0.0.0/99\"]}",
            400,
            "\"10.0.0.0/99\" is not a prefix such as 10.0.0.0/24",
        ),
        row(Admin, "POST /api/v1/node/1/expire?expiry=soon", "not a time", "", 400, "expiry: "),
        row(
            Admin,
            "PUT /api/v1/policy",
            "a policy that is cut off",
            "{\"policy\":\"{ \\\"acls\\\": [\"}",
            400,
            "policy: ",
        ),
        row(
            Admin,
            "POST /api/v1/auth/register",
            "not a link",
            "{\"user\":\"ann\",\"authId\":\"x\"}",
            400,
            "\"x\" is neither the id of a waiting device nor its link",
        ),
        row(
            Admin,
            "POST /api/v1/preauthkey/expire",
            "not a number",
            "{\"id\":\"x\"}",
            400,
            "\"x\" is not the number of a key",
        ),
        row(Admin, "PATCH /api/v1/node", "a method that nobody uses", "", 403, "you may not administer this server"),
    ]);
    rows
}

const NO_LINK: &str = "<h1>This link is not good any more</h1>";
const NO_SHELL: &str = "not the link of a shell session";

/// What a shell's check is asked with.
fn shells() -> Vec<Row> {
    let zeros = "GET /auth/wkey-req-00000000000000000000000000000000";
    vec![
        row(Port, "GET /auth/nonsense", "no such link", "", 404, NO_LINK),
        row(Port, zeros, "an old or guessed link", "", 404, NO_LINK),
        row(Channel, "POST /machine/ssh/action/1/to/1?local_user=root", "wrong method", "", 405, "use GET"),
        row(Channel, "GET /machine/ssh/action/1/to/1", "nobody to become", "", 400, NO_SHELL),
        row(Channel, "GET /machine/ssh/action/a/to/b?local_user=root", "not numbers", "", 400, NO_SHELL),
        row(
            Channel,
            "GET /machine/ssh/action/1/to/1?local_user=root",
            "another machine's node",
            "",
            404,
            "node not found",
        ),
    ]
}

const NONCE: (&str, &str) = ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");
const VERSION: (&str, &str) = ("Sec-WebSocket-Version", "13");
const NOISE: (&str, &str) = ("Sec-WebSocket-Protocol", "tailscale-control-protocol");

/// Ways into a control channel that are none.
fn upgrades() -> Vec<Row> {
    let by = |headers: &[(&'static str, &'static str)], row: Row| Row { headers: headers.to_vec(), ..row };
    let upgrade = |wrong, headers: &[(&'static str, &'static str)], answer| {
        let headers = [&[("Connection", "upgrade, close")], headers].concat();
        by(&headers, row(Port, "POST /ts2021", wrong, "", 400, answer))
    };
    let socket = |wrong, headers: &[(&'static str, &'static str)], status, answer| {
        let headers = [&[("Connection", "Upgrade, close"), ("Upgrade", "websocket")], headers].concat();
        by(&headers, row(Port, "GET /ts2021", wrong, "", status, answer))
    };
    let noise = ("Upgrade", "tailscale-control-protocol");
    vec![
        upgrade("an upgrade to something else", &[("Upgrade", "DERP")], "unknown next protocol"),
        upgrade("no handshake", &[noise], "missing handshake header"),
        upgrade(
            "a handshake that is not base64",
            &[noise, ("X-Tailscale-Handshake", "?")],
            "the handshake header is not base64",
        ),
        socket(
            "a WebSocket from a page of another origin",
            &[NONCE, VERSION, NOISE, ("Origin", "https://evil.example")],
            403,
            "pages of this origin may not open a WebSocket here",
        ),
        socket(
            "a WebSocket of another version",
            &[NONCE, ("Sec-WebSocket-Version", "8"), NOISE],
            426,
            "WebSocket version 13 is spoken here",
        ),
        socket("a WebSocket without a key", &[VERSION, NOISE], 400, "the WebSocket key is not 16 bytes in base64"),
        socket(
            "a WebSocket with half a key",
            &[("Sec-WebSocket-Key", "AAAA"), VERSION, NOISE],
            400,
            "the WebSocket key is not 16 bytes in base64",
        ),
        socket(
            "a WebSocket for something else",
            &[NONCE, VERSION, ("Sec-WebSocket-Protocol", "derp")],
            101,
            "closed: a control server speaks the subprotocol of its Noise channel",
        ),
        socket(
            "a WebSocket without a handshake",
            &[NONCE, VERSION, NOISE],
            101,
            "closed: missing or malformed handshake parameter",
        ),
    ]
}

/// What nodes ask beside maps.
/// `key` is of the node that is in: foreign to the machine that is not.
fn of_nodes(key: &str) -> Vec<Row> {
    let foreign = || format!("{{\"NodeKey\":\"{key}\"}}");
    let says = |more: &str| format!("{{\"NodeKey\":\"{key}\",{more}}}");
    let many: Vec<String> = (0..65).map(|number| format!("\"custom:n{number}\":1")).collect();
    let long = format!("\"custom:x\":\"{}\"", "y".repeat(256));
    let update = |update: &str| says(&format!("\"Update\":{{{update}}}"));
    let mut rows = Vec::new();
    let others = "another machine's node key";
    for (wrong_method, asked, method) in [
        ("GET /machine/set-dns", "POST /machine/set-dns", "use POST"),
        ("GET /machine/id-token", "POST /machine/id-token", "use POST"),
        ("GET /machine/feature/query", "POST /machine/feature/query", "use POST"),
        ("POST /machine/set-device-attr", "PATCH /machine/set-device-attr", "use PATCH"),
    ] {
        rows.extend([
            row(Channel, wrong_method, "wrong method", "", 405, method),
            row(Channel, asked, "not JSON", "{", 400, "not understood: "),
            row(Channel, asked, "too large", vec![b' '; (64 << 10) + 1], 413, TOO_LONG),
            row(Channel, asked, others, foreign(), 404, "node not found"),
        ]);
    }
    let of_a = "\"Name\":\"_acme-challenge.bystander.mesh.test\"";
    let attribute = "PATCH /machine/set-device-attr";
    rows.extend([
        row(
            Node,
            "POST /machine/set-dns",
            "another type",
            says(&format!("{of_a},\"Type\":\"A\",\"Value\":\"x\"")),
            400,
            "a record of type \"A\" is not made, only TXT",
        ),
        row(
            Node,
            "POST /machine/set-dns",
            "another node's name",
            says("\"Name\":\"_acme-challenge.db.mesh.test\",\"Type\":\"TXT\",\"Value\":\"x\""),
            400,
            "\"_acme-challenge.db.mesh.test\" is not this node's to set, only _acme-challenge.bystander.mesh.test",
        ),
        row(
            Node,
            "POST /machine/set-dns",
            "shell words as value",
            says(&format!("{of_a},\"Type\":\"TXT\",\"Value\":\"$(id)\"")),
            400,
            "the value is no digest in base64",
        ),
        row(Node, "POST /machine/id-token", "for nobody", says("\"CapVersion\":113"), 400, NO_AUDIENCE),
        row(Node, "POST /machine/id-token", "controls in it", says("\"Audience\":\"a\\n\""), 400, NO_AUDIENCE),
        row(
            Node,
            "POST /machine/feature/query",
            "a feature that nobody knows",
            says("\"Feature\":\"teleport\""),
            200,
            "This network's control server does not know the feature \"teleport\".",
        ),
        row(
            Node,
            attribute,
            "a name of the server's own",
            update("\"node:os\":\"ios\""),
            400,
            "\"node:os\" cannot be set as an attribute: a name is custom: and",
        ),
        row(
            Node,
            attribute,
            "a list as value",
            update("\"custom:x\":[1]"),
            400,
            "\"custom:x\" is set to a text, a number or a truth value",
        ),
        row(Node, attribute, "a number beyond numbers", update("\"custom:x\":1e999"), 400, "not understood: "),
        row(
            Node,
            attribute,
            "a long text",
            update(&long),
            400,
            "custom:x: a text has at most 255 bytes and no controls",
        ),
        row(Node, attribute, "too many", update(&many.join(",")), 400, "at most 64 attributes are set at once"),
    ]);
    rows
}

const NO_AUDIENCE: &str = "say for whom the token is: an audience of 1 to ";

/// One request with its own headers; of a WebSocket that is closed again the reason.
async fn port(world: &World, row: &Row) -> (u16, String) {
    let (method, path) = row.asked.split_once(' ').expect("method and path");
    if row.headers.is_empty() {
        return request(world, method.parse().expect("a method"), path, Bytes::from(row.body.clone())).await;
    }
    let headers: String = row.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 0\r\n\r\n");
    let heard = converse(world, head.as_bytes(), false).await;
    let end = heard.windows(4).position(|end| end == b"\r\n\r\n").expect("a whole head") + 4;
    let (head, body) = heard.split_at(end);
    let status = String::from_utf8_lossy(head).get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    let said = match (status, body) {
        // RFC 6455 §5.5.1: a close, its length, its code, and the reason.
        (101, [0x88, _, _, _, reason @ ..]) => format!("closed: {}", String::from_utf8_lossy(reason)),
        _ => String::from_utf8_lossy(body).into_owned(),
    };
    (status, said)
}

impl Row {
    fn line(&self) -> String {
        let door = match self.door {
            Port => "port",
            Channel => "channel",
            Node => "node",
            Admin => "admin",
        };
        let answer = self.answer.replace('|', "\\|").replace("<h1>", "page: ").replace("</h1>", "");
        format!("| {door} | `{}` | {} | {} | {} |", self.asked, self.wrong, self.status, answer.trim_end())
    }
}

async fn admin(world: &World, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(world.admin.socket().expect("a socket")).await.expect("listening");
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.expect("heard");
    let _ = stream.write_all(body).await; // it may have heard enough
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

#[tokio::test]
async fn every_malformed_request_has_the_answer_that_the_table_says() {
    let said = Overrides { set_dns_command: Some("/bin/true".into()), ..Overrides::default() };
    let world = start_with(said, Caps::default()).await;
    world.admin.create_user(&CreateUser { name: "ann".into(), ..CreateUser::default() }).await.expect("a new name");
    let bystander = Machine::new(&world, 1, "bystander").await;
    bystander.join(&world.join_key(true).await).await;
    let mut maps = bystander.stream().await;
    maps.until("the first map", |_| true).await;
    let stranger = Machine::new(&world, 2, "stranger").await;

    let mut wrong = Vec::new();
    for row in rows(&bystander.node.public().to_string()) {
        let (method, path) = row.asked.split_once(' ').expect("method and path");
        let (status, body) = match row.door {
            Port => port(&world, &row).await,
            Channel | Node => {
                let machine = if row.door == Node { &bystander } else { &stranger };
                let method = method.parse::<Method>().expect("a method");
                let (status, body) = machine.say(method, path, row.body.clone()).await;
                (status.as_u16(), String::from_utf8(body.to_vec()).expect("UTF-8"))
            }
            Admin => admin(&world, method, path, &row.body).await,
        };
        // What a person reads: a line, the heading of a page, the error in a registration, the detail of a problem.
        let json: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        let said = json["Error"].as_str().or(json["detail"].as_str()).or(json["Text"].as_str());
        let said = said.unwrap_or(&body).trim_end();
        let is_page = body.starts_with("<!doctype html>");
        let begins = if is_page { said.contains(row.answer) } else { said.starts_with(row.answer) };
        let is_one_line = is_page || (!said.is_empty() && !said.contains('\n') && said.len() < 400);
        if status != row.status || !begins || !is_one_line || said.contains("panicked") {
            wrong.push(format!("{} {}: {status} {said:?}", row.asked, row.wrong));
        }
        if !DOCUMENT.contains(&row.line()) {
            wrong.push(format!("not in the document: {}", row.line()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // And all the while it served.
    world.admin.rename_node("1", "renamed").await.expect("still at work");
    maps.until("the new name", |map| map.self_node.full_name() == "renamed.mesh.test").await;
}

#[tokio::test]
async fn a_client_of_the_far_future_is_served_as_one_of_today() {
    let world = start().await;
    let machine = Machine::new(&world, 1, "future").await;
    let key = world.join_key(true).await;
    let mut asked = machine.register_request(Some(&key));
    asked.version = CapabilityVersion(4_000_000_000);
    assert!(machine.register(&asked).await.machine_authorized);
    let mut maps = machine
        .stream_with(warren_wire::MapRequest {
            version: CapabilityVersion(4_000_000_000),
            stream: true,
            ..machine.map_request()
        })
        .await;
    maps.until("a map", |map| map.self_node.full_name() == "future.mesh.test").await;
}

async fn dropped(world: &World, part: &str, reason: &str) -> u64 {
    let (status, counters) = get(world, "/debug/counters").await;
    assert_eq!(status, 200, "{counters}");
    let counters: serde_json::Value = serde_json::from_str(&counters).expect("JSON");
    counters[part]["dropped"][reason].as_u64().unwrap_or_else(|| panic!("no {reason} in {counters}"))
}

/// What cannot be answered is counted: once each, under its reason.
#[tokio::test]
async fn garbage_before_and_inside_a_channel_is_counted() {
    let world = start().await;
    let upgrade = |handshake: &str| {
        format!(
            "POST /ts2021 HTTP/1.1\r\nHost: x\r\nUpgrade: tailscale-control-protocol\r\nConnection: upgrade, close\r\n\
             X-Tailscale-Handshake: {handshake}\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    };
    let until = async |part: &str, reason: &str, expect: u64| {
        let wait = async {
            while dropped(&world, part, reason).await < expect {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{part} {reason} did not reach {expect}"));
        assert_eq!(dropped(&world, part, reason).await, expect);
    };
    for _ in 0..3 {
        converse(&world, b"\x00\x01\x02 garbage\r\n\r\n", true).await;
        converse(&world, b"\x16\x03\x01\x00\xc8 not wanted here", true).await;
        converse(&world, b"", true).await;
        converse(&world, &upgrade("not base64"), false).await;
        converse(&world, &[upgrade(&"A".repeat(136)), vec![7; 3000]].concat(), false).await;
    }
    until("listener", "not-http", 3).await;
    until("listener", "not-tls", 3).await;
    until("listener", "silent", 3).await;
    until("control", "request", 3).await;
    until("control", "handshake", 3).await;

    let machine = Machine::new(&world, 1, "a").await;
    let version = CapabilityVersion::OUR_NODE.0 as u16;
    for garbage in [&b"GET /machine/map HTTP/1.1\r\nHost: x\r\n\r\n"[..], &[0xff; 4000], &[0; 100]] {
        let mut random = Random::from_seed([garbage.len() as u8; 32]);
        let options = DialOptions::default();
        let dialled = dial_control(&world.url(), world.key, &machine.secret, version, &mut random, &options).await;
        let mut stream = dialled.expect("a channel");
        let _ = stream.write_all(garbage).await; // it may have heard enough
        let _ = stream.shutdown().await;
        let mut said = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "the server goes on listening to {:?}", garbage.escape_ascii().to_string());
    }
    until("control", "content", 3).await;
    machine.join(&world.join_key(true).await).await;
}
