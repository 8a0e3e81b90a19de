//! Damaged data: noticed before it is served or replicated, said so with the next command, and mended from the peers.

use std::path::{Path, PathBuf};

use quorate_client::proto::Message;
use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};

use super::harness::{
    Cluster, append, append_surely, copy, eventually, local, message, read_all, run, text,
};

/// Flushed soon, so that there are files to be damaged.
const SETTINGS: &str = "flush_interval_ms = 200\n";
const VICTIM: u32 = 3;
const ROOMS: u32 = 40;

fn room(number: u32) -> String {
    format!("acme/room-{number}")
}

/// Every conversation as it was acknowledged.
type Written = Vec<Vec<Message>>;

/// Fills a cluster and waits until the victim has all of it.
async fn fill(cluster: &Cluster) -> Written {
    let mut client = cluster.messages(1);
    for number in 0..ROOMS {
        // Small payloads stay in table files, large ones go to blob files.
        let small = message("small", noise(number, 3_000));
        let large = message("large", noise(number, 20_000));
        append_surely(&mut client, append(&room(number), vec![small, large])).await;
    }
    let mut written = Written::new();
    for number in 0..ROOMS {
        let read = async || read_all(&mut client, &room(number), None).await.ok();
        written.push(eventually("what was written is read", read).await);
    }
    assert!(written.iter().all(|messages| messages.len() == 2));
    wait_everything(cluster, &written).await;
    cluster.wait_durable(VICTIM).await;
    written
}

/// Waits until the victim's own replicas have everything.
async fn wait_everything(cluster: &Cluster, written: &Written) {
    eventually("the victim has everything", async || {
        let mut client = cluster.messages(VICTIM);
        for (number, messages) in (0..).zip(written) {
            let found = read_all(&mut client, &room(number), local()).await.ok()?;
            if found != *messages {
                return None;
            }
        }
        Some(())
    })
    .await;
}

/// Bytes that no compression makes smaller.
fn noise(seed: u32, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    StdRng::seed_from_u64(seed.into()).fill_bytes(&mut out);
    out
}

/// The largest file with an extension.
fn largest(folder: &Path, extension: &str) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let found = files
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .max_by_key(|path| std::fs::metadata(path).unwrap().len());
    found.unwrap_or_else(|| panic!("there is no .{extension} in {}", folder.display()))
}

fn flip(path: &Path, part: f64) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = (bytes.len() as f64 * part) as usize;
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

fn shorten(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
}

fn remove(path: &Path) {
    std::fs::remove_file(path).unwrap();
}

/// What is done to a data directory, how, and a word of what is then said.
type Damage = (&'static str, fn(&Path), &'static str);

const DAMAGES: [Damage; 9] = [
    ("a flipped bit in the middle of the log", |d| flip(&largest(&d.join("log"), "log"), 0.5), ""),
    ("a table file cut short", |d| shorten(&largest(&d.join("state"), "sst")), "sst"),
    ("a table file that is gone", |d| remove(&largest(&d.join("state"), "sst")), "sst"),
    ("a blob file cut short", |d| shorten(&largest(&d.join("state"), "blob")), "blob"),
    ("a blob file that is gone", |d| remove(&largest(&d.join("state"), "blob")), "blob"),
    ("a watermark that is gone", |d| remove(&d.join("watermark")), "watermark"),
    ("a flipped bit in the watermark", |d| flip(&d.join("watermark"), 0.5), "watermark"),
    ("a flipped bit in the identity", |d| flip(&d.join("IDENTITY"), 0.3), "IDENTITY"),
    (
        "a log database that is gone",
        |d| {
            std::fs::remove_dir_all(d.join("log")).unwrap();
        },
        "",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_does_not_start_on_damaged_data_and_says_what_to_do() {
    let mut cluster = Cluster::start(3, SETTINGS).await;
    let written = fill(&cluster).await;
    cluster.kill(VICTIM).await;
    let kept = cluster.dir().join("kept");
    std::fs::rename(cluster.data(VICTIM), &kept).unwrap();
    let next = format!("quorate node replace {VICTIM}");
    for (what, inflict, word) in DAMAGES {
        copy(&kept, &cluster.data(VICTIM));
        inflict(&cluster.data(VICTIM));
        if what.contains("log database") {
            // Its replicas are damaged, one by one; the node runs, so that they can be replaced in place.
            cluster.spawn(VICTIM);
            cluster.wait_alive(VICTIM).await;
            let (status, body) = cluster.page(VICTIM, "/readyz").await.unwrap();
            assert!(status == 503 && body.contains("damaged"), "{what}: {body}");
            let said = text(&run(&["status", "--endpoints", &cluster.address(1)]).await.stdout);
            assert!(said.contains(&next) && said.contains("damaged"), "{what}: {said}");
            cluster.kill(VICTIM).await;
        } else {
            let (status, said) = cluster.run_to_its_end(VICTIM).await;
            assert!(!status.success(), "{what}: {said}");
            assert!(said.contains("damaged data in"), "{what}: {said}");
            assert!(said.contains(word), "{what}: {said}");
            assert!(said.contains(&next), "{what}: {said}");
            assert!(!said.contains("panicked"), "{what}: {said}");
        }
        std::fs::remove_dir_all(cluster.data(VICTIM)).unwrap();
    }
    // The others have gone on, and name who is missing.
    let mut client = cluster.messages(1);
    for (number, messages) in (0..).zip(&written) {
        let read = async || read_all(&mut client, &room(number), None).await.ok();
        assert_eq!(eventually("the others serve", read).await, *messages);
    }
    let said = text(&run(&["status", "--endpoints", &cluster.address(1)]).await.stdout);
    assert!(said.contains(&format!("node {VICTIM}")) && said.contains(&next), "{said}");
    std::fs::rename(&kept, cluster.data(VICTIM)).unwrap();
    cluster.restart(VICTIM).await;
    cluster.assert_no_panic(3);
    cluster.stop().await;
}

/// Reads everything at the victim itself: each answer is what was written, or an error.
async fn serves_only_what_was_written(cluster: &Cluster, written: &Written) {
    let mut client = cluster.messages(VICTIM);
    for (number, messages) in (0..).zip(written) {
        if let Ok(found) = read_all(&mut client, &room(number), local()).await {
            assert_eq!(found, *messages, "{}", room(number));
        }
    }
}

/// When a file of the victim is damaged.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Stopped,
    Running,
}

async fn damage_is_found_by_a_read_and_mended_by_a_replacement(
    extension: &str,
    when: When,
    inflict: fn(&Path),
) {
    let mut cluster = Cluster::start(3, SETTINGS).await;
    let written = fill(&cluster).await;
    cluster.kill(VICTIM).await;
    let state = cluster.data(VICTIM).join("state");
    let damage = || inflict(&largest(&state, extension));
    if when == When::Stopped {
        damage();
    }
    cluster.spawn(VICTIM);
    if when == When::Running {
        cluster.wait_alive(VICTIM).await;
        damage();
    }
    eventually("the node finds the damage and stops", async || {
        serves_only_what_was_written(&cluster, &written).await;
        cluster.log_of(VICTIM).contains("the node stops").then_some(())
    })
    .await;
    cluster.kill(VICTIM).await;
    // It is not forgotten by a restart.
    let (status, said) = cluster.run_to_its_end(VICTIM).await;
    let next = format!("quorate node replace {VICTIM}");
    assert!(!status.success() && said.contains("was found damaged"), "{said}");
    assert!(said.contains(&next), "{said}");

    std::fs::remove_dir_all(cluster.data(VICTIM)).unwrap();
    cluster.spawn(VICTIM);
    cluster.wait_alive(VICTIM).await;
    let victim = VICTIM.to_string();
    let replaced = run(&["node", "replace", &victim, "--endpoints", &cluster.address(1)]).await;
    assert!(replaced.status.success(), "{}", text(&replaced.stderr));
    cluster.wait_ready().await;
    wait_everything(&cluster, &written).await;
    // Leadership goes back to it meanwhile, and while a group changes its leader it has none.
    eventually("the cluster is healthy", async || {
        run(&["status", "--endpoints", &cluster.address(1)]).await.status.success().then_some(())
    })
    .await;
    cluster.assert_no_panic(3);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_table_file_is_never_served() {
    let inflict = |file: &Path| flip(file, 0.4);
    damage_is_found_by_a_read_and_mended_by_a_replacement("sst", When::Stopped, inflict).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_a_blob_file_is_never_served() {
    let inflict = |file: &Path| flip(file, 0.4);
    damage_is_found_by_a_read_and_mended_by_a_replacement("blob", When::Stopped, inflict).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_vanishes_under_a_running_node_stops_it() {
    damage_is_found_by_a_read_and_mended_by_a_replacement("blob", When::Running, remove).await;
}
