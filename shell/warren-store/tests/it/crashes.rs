//! A process may die anywhere between begin, commit and answer: what is found afterwards is the state before the batch
//! or after it, and after it whenever the commit had returned.

use std::path::{Path, PathBuf};

use warren_control::{Rows, What};
use warren_wire::NodeId;

use crate::batches::*;

/// The files as they lie on the disk now, as another process would find them after a crash.
fn copy_of_files(path: &Path) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    for file in std::fs::read_dir(path.parent().expect("a folder")).expect("files") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), folder.path().join(file.file_name())).expect("copied");
    }
    let copy = folder.path().join(path.file_name().expect("a name"));
    (folder, copy)
}

async fn found_after_crash(path: &Path) -> Rows {
    let (_folder, copy) = copy_of_files(path);
    let mut store = open(&copy).await;
    let rows = store.load().await.expect("a registry");
    Server::on(&rows); // rows that a server accepts
    rows
}

fn without_soft(rows: Rows) -> Rows {
    Rows { soft: Vec::new(), ..rows }
}

#[tokio::test]
async fn at_every_step_the_files_hold_the_state_before_or_after() {
    let (_folder, path, mut server, mut store) = with_one_node().await;
    let secret = server.keys[0].clone();
    let before = server.control.registry().to_rows();
    let commands =
        vec![register(2, 22, &secret, "second"), What::DeleteNode { node: NodeId(1) }, user("bob"), key(1, &[], false)];
    let (_, batch) = server.decide(commands);

    let mut open_commit = store.begin(batch.base).await.expect("begun");
    assert_eq!(without_soft(found_after_crash(&path).await), before, "begun");
    open_commit.write(batch.revision, &batch.rows, &batch.audit).await.expect("written");
    assert_eq!(without_soft(found_after_crash(&path).await), before, "written, not committed");
    open_commit.finish().await.expect("committed");
    let found = without_soft(found_after_crash(&path).await);
    server.apply(batch);
    assert_eq!(found, server.control.registry().to_rows(), "committed, not answered");
}

#[tokio::test]
async fn a_commit_that_is_dropped_half_way_leaves_nothing_and_the_store_goes_on() {
    let (_folder, _path, mut server, mut store) = with_one_node().await;
    let before = server.control.registry().to_rows();
    let (_, batch) = server.decide(vec![user("bob"), What::DeleteNode { node: NodeId(1) }]);
    let mut open_commit = store.begin(batch.base).await.expect("begun");
    open_commit.write(batch.revision, &batch.rows, &batch.audit).await.expect("written");
    drop(open_commit);
    assert_eq!(store.load().await.expect("a registry"), before);
    store.commit(&batch).await.expect("committed after all");
    server.apply(batch);
    assert_eq!(store.load().await.expect("a registry"), server.control.registry().to_rows());
}

#[tokio::test]
async fn a_store_that_dies_inside_a_commit_opens_to_the_state_before() {
    let (_folder, path, mut server, mut store) = with_one_node().await;
    let before = server.control.registry().to_rows();
    let (_, batch) = server.decide(vec![user("bob")]);
    {
        let mut open_commit = store.begin(batch.base).await.expect("begun");
        open_commit.write(batch.revision, &batch.rows, &batch.audit).await.expect("written");
    }
    drop(store);
    assert_eq!(open(&path).await.load().await.expect("a registry"), before);
}

#[tokio::test]
async fn a_log_cut_anywhere_still_opens_to_a_whole_revision() {
    let (_folder, path, mut server, mut store) = with_one_node().await;
    let mut states = vec![server.control.registry().to_rows()];
    for name in ["bob", "cid", "dan"] {
        server.commit(&mut store, vec![user(name)]).await;
        states.push(server.control.registry().to_rows());
    }
    let (_copies, copy) = copy_of_files(&path);
    let mut log = copy.as_os_str().to_owned();
    log.push("-wal");
    let whole = std::fs::read(&log).expect("a log");
    let mut seen = std::collections::BTreeSet::new();
    // The disk may have got any beginning of the log.
    for length in (0..=whole.len()).step_by(1500).chain([whole.len()]) {
        let folder = tempfile::tempdir().expect("a folder");
        let cut = folder.path().join("control.db");
        std::fs::copy(&copy, &cut).expect("copied");
        std::fs::write(folder.path().join("control.db-wal"), &whole[..length]).expect("cut");
        let rows = open(&cut).await.load().await.expect("a registry");
        seen.insert(rows.revision);
        if let Some(state) = states.iter().find(|state| state.revision == rows.revision) {
            assert_eq!(&rows, state);
        } else {
            assert!(rows.revision < states[0].revision, "an older whole revision");
            Server::on(&rows);
        }
    }
    assert!(seen.len() > 2, "cuts at {} bytes met only {seen:?}", whole.len());
    assert_eq!(seen.last(), Some(&states[3].revision));
}
