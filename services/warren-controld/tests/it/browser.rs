//! A browser, as far as signing in needs one: cookies by path, redirections by hand, forms.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use url::Url;

use crate::world::PATIENCE;

#[derive(Clone, Default)]
pub struct Browser {
    /// (host and port, name) to (path, value).
    cookies: BTreeMap<(String, String), (String, String)>,
}

#[derive(Debug)]
pub struct Page {
    pub status: u16,
    pub head: String,
    pub body: String,
    pub url: Url,
}

impl Page {
    pub fn location(&self) -> Url {
        let line = self.head.lines().find_map(|line| line.strip_prefix("location: "));
        self.url
            .join(line.unwrap_or_else(|| panic!("{} leads nowhere: {} {}", self.url, self.status, self.body)))
            .expect("a URL")
    }

    /// The value of a hidden field.
    pub fn field(&self, name: &str) -> String {
        let start = format!("name=\"{name}\" value=\"");
        let rest = self.body.split_once(&start).unwrap_or_else(|| panic!("no field {name} in {}", self.body)).1;
        rest.split('"').next().unwrap_or_default().to_owned()
    }
}

impl Browser {
    pub async fn get(&mut self, url: &Url) -> Page {
        self.ask("GET", url, None, &[]).await
    }

    pub async fn post(&mut self, url: &Url, form: &[(&str, &str)]) -> Page {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        self.ask("POST", url, Some(body), &[("Sec-Fetch-Site", "same-origin")]).await
    }

    /// Follows redirections to the first page.
    pub async fn open(&mut self, url: &Url) -> Page {
        let mut page = self.get(url).await;
        for _ in 0..10 {
            if page.status != 303 {
                return page;
            }
            page = self.get(&page.location()).await;
        }
        panic!("round and round at {}", page.url);
    }

    pub async fn ask(&mut self, method: &str, url: &Url, body: Option<String>, headers: &[(&str, &str)]) -> Page {
        let place = url.authority().to_owned();
        let of_path = |(path, _): &&(String, String)| url.path().starts_with(path.as_str());
        let cookies: Vec<String> = self
            .cookies
            .iter()
            .filter(|((host, _), cookie)| *host == place && of_path(cookie))
            .map(|((_, name), (_, value))| format!("{name}={value}"))
            .collect();
        let body = body.unwrap_or_default();
        let target = url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()));
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n");
        head += &format!("Content-Length: {}\r\n", body.len());
        if !cookies.is_empty() {
            head += &format!("Cookie: {}\r\n", cookies.join("; "));
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        let talk = async {
            let mut stream = TcpStream::connect(&place).await.expect("listening");
            stream.write_all(format!("{head}\r\n{body}").as_bytes()).await.expect("heard");
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            String::from_utf8_lossy(&answer).into_owned()
        };
        let answer = tokio::time::timeout(PATIENCE, talk).await.expect("an answer in time");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole head");
        let status = head.get(9..12).and_then(|digits| digits.parse().ok()).unwrap_or(0);
        for line in head.lines().filter_map(|line| line.strip_prefix("set-cookie: ")) {
            let mut parts = line.split("; ");
            let (name, value) = parts.next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            assert!(line.contains("HttpOnly") && line.contains("SameSite=Lax"), "{line}");
            let path = parts.find_map(|part| part.strip_prefix("Path=")).unwrap_or("/").to_owned();
            let key = (place.clone(), name.to_owned());
            if line.contains("Max-Age=0") {
                self.cookies.remove(&key);
            } else {
                self.cookies.insert(key, (path, value.to_owned()));
            }
        }
        Page { status, head: head.to_owned(), body: body.to_owned(), url: url.clone() }
    }

    pub fn cookie_values(&self) -> Vec<String> {
        self.cookies.values().map(|(_, value)| value.clone()).collect()
    }
}
