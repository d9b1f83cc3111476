//! Which handler answers which path: a small table that several services fill, so that they can share one port.
//!
//! Requests are matched by path alone. Some clients send the absolute form (`GET http://host/key`) and a `Host` without
//! its port, so neither is looked at. The table is generic over what is known about the caller: an address on a public
//! port, a machine key inside a Noise channel, a user on a local socket.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::FutureExt;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use crate::answer::{self, Body};

/// An answer in the making.
pub type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

type Handler<C> = Arc<dyn Fn(Request<Incoming>, C) -> Answering + Send + Sync>;

/// See the module. `C` is what is known about the caller.
pub struct Routes<C> {
    rows: Vec<Row<C>>,
}

struct Row<C> {
    path: &'static str,
    reach: Reach,
    handler: Handler<C>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Exactly,
    Below,
}

impl<C: 'static> Routes<C> {
    /// An empty table: everything is 404.
    pub fn new() -> Self {
        Self { rows: Vec::new() }
    }

    /// Answers `path` and nothing below it, for every method.
    #[must_use]
    pub fn at<F, A>(self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request<Incoming>, C) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        self.with(path, Reach::Exactly, handler)
    }

    /// Answers everything that begins with `path`, for every method. Longer beginnings win.
    #[must_use]
    pub fn below<F, A>(self, path: &'static str, handler: F) -> Self
    where
        F: Fn(Request<Incoming>, C) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        self.with(path, Reach::Below, handler)
    }

    /// Both tables in one. Where they overlap, the rows of `self` win.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.rows.extend(other.rows);
        self
    }

    fn with<F, A>(mut self, path: &'static str, reach: Reach, handler: F) -> Self
    where
        F: Fn(Request<Incoming>, C) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let handler: Handler<C> = Arc::new(move |request, caller| Box::pin(handler(request, caller)));
        self.rows.push(Row { path, reach, handler });
        self
    }

    /// Answers one request. A handler that panics answers 500 and harms nobody else.
    pub async fn answer(&self, request: Request<Incoming>, caller: C) -> Response<Body> {
        let Some(row) = self.find(request.uri().path()) else {
            return answer::text(StatusCode::NOT_FOUND, "there is nothing at this address");
        };
        let path = row.path;
        let handler = Arc::clone(&row.handler);
        let answering = AssertUnwindSafe(async move { handler(request, caller).await }).catch_unwind();
        answering.await.unwrap_or_else(|_| {
            tracing::error!(path, "a request's handler panicked");
            answer::text(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
        })
    }

    fn find(&self, path: &str) -> Option<&Row<C>> {
        let exact = self.rows.iter().find(|row| row.reach == Reach::Exactly && row.path == path);
        let below = || {
            let rows = self.rows.iter().filter(|row| row.reach == Reach::Below && path.starts_with(row.path));
            // `max_by_key` takes the last of equals, and the first table shall win.
            rows.rev().max_by_key(|row| row.path.len())
        };
        exact.or_else(below)
    }
}

impl<C: 'static> Default for Routes<C> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(mark: u16) -> Routes<()> {
        let answer = move || async move { answer::empty(StatusCode::from_u16(mark).expect("a status")) };
        Routes::new().at("/key", move |_, ()| answer()).below("/register/", move |_, ()| answer())
    }

    #[track_caller]
    fn check(routes: &Routes<()>, path: &str, expect: Option<&str>) {
        assert_eq!(routes.find(path).map(|row| row.path), expect, "{path}");
    }

    #[test]
    fn exact_paths_win_over_beginnings_and_long_beginnings_over_short() {
        let routes = table(200).merge(Routes::new().below("/", |_, ()| async { answer::empty(StatusCode::OK) }));
        check(&routes, "/key", Some("/key"));
        check(&routes, "/key/", Some("/"));
        check(&routes, "/register/x", Some("/register/"));
        check(&routes, "/register", Some("/"));
        check(&table(200), "/keys", None);
    }

    #[test]
    fn of_two_equal_rows_the_first_table_wins() {
        let routes = table(200).merge(table(404));
        let first = &routes.rows[1];
        assert!(Arc::ptr_eq(&routes.find("/register/x").expect("there").handler, &first.handler));
    }
}
