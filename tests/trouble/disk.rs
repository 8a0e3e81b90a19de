//! A disk that is nearly full, and one that fails: refused early, said why, nothing acknowledged is lost.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use quorate::storage::{DataDir, DataDirError};
use quorate::types::NodeId;
use quorate_client::proto::message_log_client::MessageLogClient;
use rustix::process::Signal;
use tonic::transport::Channel;
use tonic::{Code, Request};

use super::harness::{
    Cluster, append, append_surely, eventually, local, message, read_all, run, text,
};
use super::wire::Refusal;

const ROOM: &str = "acme/room";
/// More than any disk has.
const ENDLESS: u64 = 1 << 60;

async fn refused(client: &mut MessageLogClient<Channel>, id: &str) -> Option<Refusal> {
    let mut request = Request::new(append(ROOM, vec![message(id, "x")]));
    request.set_timeout(std::time::Duration::from_secs(2));
    client.append(request).await.err().map(|status| Refusal::of(&status))
}

async fn read_locally(cluster: &Cluster, node: u32) -> Option<usize> {
    read_all(&mut cluster.messages(node), ROOM, local()).await.ok().map(|found| found.len())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_soft_mark_appends_are_refused_and_reads_are_served() {
    let mut cluster = Cluster::start(3, "").await;
    append_surely(&mut cluster.messages(1), append(ROOM, vec![message("first", "hello")])).await;
    for node in 1..=3 {
        cluster.kill(node).await;
        cluster.configure(node, "disk_soft_free_bytes", ENDLESS);
        cluster.spawn(node);
    }
    for node in 1..=3 {
        cluster.wait_alive(node).await;
        let mut client = cluster.messages(node);
        let refusal = eventually("appends are refused for the disk", async || {
            refused(&mut client, "refused").await.filter(|refusal| refusal.reason == "DISK_LOW")
        })
        .await;
        assert_eq!(refusal.code, Code::ResourceExhausted, "{refusal:?}");
        assert!(refusal.retryable && refusal.retry_delay.is_some(), "{refusal:?}");
        assert!(!refusal.may_have_taken_effect, "{refusal:?}");
        let read = read_all(&mut client, ROOM, None).await.unwrap();
        assert_eq!(read.len(), 1, "what was refused is not there");
        let (status, body) = cluster.page(node, "/readyz").await.unwrap();
        assert!(status == 503 && body.contains("disk"), "{body}");
    }
    let status = run(&["status", "--endpoints", &cluster.address(1)]).await;
    let said = text(&status.stdout);
    assert!(!status.status.success(), "{said}");
    assert!(said.contains("the disk of node 3 is nearly full"), "{said}");
    for node in 1..=3 {
        cluster.kill(node).await;
        cluster.configure(node, "disk_soft_free_bytes", 1 << 30);
        cluster.spawn(node);
    }
    cluster.wait_ready().await;
    append_surely(&mut cluster.messages(1), append(ROOM, vec![message("second", "x")])).await;
    cluster.assert_no_panic(3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_the_hard_mark_a_node_takes_no_entries_and_serves_what_it_has() {
    let mut cluster = Cluster::start(3, "flush_interval_ms = 200\n").await;
    append_surely(&mut cluster.messages(1), append(ROOM, vec![message("first", "hello")])).await;
    for node in 1..=3 {
        eventually("all have it", async || {
            (read_locally(&cluster, node).await == Some(1)).then_some(())
        })
        .await;
        cluster.wait_durable(node).await;
    }
    // Two of three: without them nothing is committed.
    for node in 2..=3 {
        cluster.kill(node).await;
        cluster.configure(node, "disk_soft_free_bytes", ENDLESS);
        cluster.configure(node, "disk_hard_free_bytes", ENDLESS - 1);
        cluster.spawn(node);
    }
    for node in 2..=3 {
        cluster.wait_alive(node).await;
        let (status, body) = cluster.page(node, "/readyz").await.unwrap();
        assert!(status == 503 && body.contains("disk"), "{body}");
    }
    for number in 0..3 {
        let refusal = refused(&mut cluster.messages(1), &format!("not {number}")).await;
        let refusal = refusal.expect("no quorum takes entries");
        assert!(refusal.retryable, "{refusal:?}");
    }
    for node in 1..=3 {
        assert_eq!(read_locally(&cluster, node).await, Some(1), "node {node} serves what it has");
    }
    for node in 2..=3 {
        cluster.kill(node).await;
        cluster.configure(node, "disk_soft_free_bytes", 1 << 30);
        cluster.configure(node, "disk_hard_free_bytes", 1 << 28);
        cluster.restart(node).await;
    }
    append_surely(&mut cluster.messages(1), append(ROOM, vec![message("second", "x")])).await;
    cluster.assert_no_panic(3);
    cluster.stop().await;
}

/// A small disk of its own, where the machine allows one.
struct Disk<'a>(&'a Path);

impl Disk<'_> {
    /// None, which is said, where the machine does not allow it.
    fn mount<'a>(path: &'a Path, size: &str) -> Option<Disk<'a>> {
        std::fs::create_dir_all(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(path);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Disk(path));
        }
        // Not kept back, as what a passing test prints is.
        let mut log = std::io::stderr();
        writeln!(log, "NOT RUN: a disk of its own cannot be mounted here").unwrap();
        None
    }

    /// Leaves little room.
    fn shrink(&self) {
        let mut mount = Command::new("mount");
        let resized = mount.args(["-o", "remount,size=256m"]).arg(self.0).output().unwrap();
        assert!(resized.status.success(), "{}", text(&resized.stderr));
    }
}

impl Drop for Disk<'_> {
    fn drop(&mut self) {
        // Lazily: a node that was killed in mid-test may still hold files.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fails_stops_at_once_and_the_others_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("3");
    let Some(disk) = Disk::mount(&data, "2g") else { return };
    let mut cluster = Cluster::start_in(dir, 3, "log_keep_bytes = 1048576\n").await;
    let mut client = cluster.messages(1);
    append_surely(&mut client, append(ROOM, vec![message("first", "hello")])).await;
    // The marks are for disks that fill; this one has no room from one moment to the next.
    cluster.kill(3).await;
    cluster.configure(3, "disk_soft_free_bytes", (16 << 20) + 1);
    cluster.configure(3, "disk_hard_free_bytes", 16 << 20);
    disk.shrink();
    cluster.restart(3).await;
    cluster.signal(3, Signal::STOP);
    let filler = data.join("filler");
    fill(&filler);
    cluster.signal(3, Signal::CONT);
    // Groups that node 1 led need a vote of node 3 now, and that has to be on its disk before it counts.
    cluster.kill(1).await;
    eventually("node 3 stops", async || cluster.log_of(3).contains("the node stops").then_some(()))
        .await;
    let log = cluster.log_of(3);
    assert!(log.contains("No space left on device"), "{log}");
    cluster.restart(1).await;
    append_surely(&mut client, append(ROOM, vec![message("second", "x")])).await;
    cluster.kill(3).await;
    std::fs::remove_file(&filler).unwrap();
    cluster.restart(3).await;
    let all = read_all(&mut client, ROOM, None).await.unwrap();
    assert_eq!(all.len(), 2, "what was acknowledged is there");
    eventually("node 3 has it too", async || {
        let found = read_all(&mut cluster.messages(3), ROOM, local()).await.ok()?;
        (found == all).then_some(())
    })
    .await;
    cluster.assert_no_panic(3);
    cluster.stop().await;
}

/// Until something reads the same place again, a node that has forgotten it counts in quorums (G11).
#[test]
fn damage_is_noted_on_a_full_disk() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("1");
    let Some(_disk) = Disk::mount(&data, "8m") else { return };
    let (open, _) = DataDir::open(&data, NodeId(1)).unwrap();
    open.keep_ballast(1 << 20, 0).unwrap();
    fill(&data.join("filler"));
    open.mark_damaged("a block does not have its checksum").unwrap();
    drop(open);
    let refused = DataDir::open(&data, NodeId(1)).unwrap_err();
    assert!(matches!(refused, DataDirError::Damaged { .. }), "{refused}");
}

/// Takes all the room there is.
fn fill(path: &Path) {
    let mut file = std::fs::File::create(path).unwrap();
    for block in [1 << 20, 1 << 12, 1] {
        while file.write_all(&vec![1; block]).is_ok() {}
    }
}
