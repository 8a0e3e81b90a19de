//! What the machine itself takes: the floor below which no figure can be.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::{Advice, fadvise};
use serde_json::{Value, json};
use tokio::task::block_in_place;
use tokio::time::Instant;

use super::latency::Latencies;

/// How often each is timed, and how long at most.
const ROUNDS: u32 = 4_000;
const TIME_MAX: Duration = Duration::from_secs(3);
/// Bytes of the file that is read in sequence, and of one read.
const FILE_BYTES: usize = 512 * 1024 * 1024;
const READ_BYTES: usize = 1024 * 1024;

/// Times a synced append of `size` bytes to a file in `dir`, and a round trip of `size` bytes over a TCP connection on
/// loopback between two threads that block: no runtime has a part in either.
pub(super) async fn latencies(dir: &Path, size: usize) -> anyhow::Result<Value> {
    let synced = block_in_place(|| fdatasync(dir, size)).context("the disk cannot be probed")?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let echo = tokio::spawn(async move { block_in_place(|| echo(&listener, size)) });
    let travelled = block_in_place(|| round_trips(TcpStream::connect(address)?, size))?;
    echo.await.context("the echo has failed")??;
    Ok(json!({
        "append_bytes": size,
        "fdatasync_us": synced.to_json(),
        "loopback_round_trip_us": travelled.to_json(),
    }))
}

/// Reads a file in sequence that the page cache does not hold: bytes a second.
pub(super) fn sequential_read(dir: &Path) -> anyhow::Result<f64> {
    block_in_place(|| {
        let mut file = tempfile::tempfile_in(dir)?;
        let mut part = vec![0u8; READ_BYTES];
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut part);
        for _ in 0..FILE_BYTES / READ_BYTES {
            file.write_all(&part)?;
        }
        file.sync_all()?;
        // Of a file's own pages that are clean anybody may say so; it needs no right.
        fadvise(&file, 0, None, Advice::DontNeed)?;
        fadvise(&file, 0, None, Advice::Sequential)?;
        std::io::Seek::rewind(&mut file)?;
        let began = Instant::now();
        while file.read(&mut part)? > 0 {}
        Ok(FILE_BYTES as f64 / began.elapsed().as_secs_f64())
    })
}

fn fdatasync(dir: &Path, size: usize) -> anyhow::Result<Latencies> {
    let mut file: File = tempfile::tempfile_in(dir)?;
    let part = vec![7u8; size];
    timed(|| {
        file.write_all(&part)?;
        file.sync_data()
    })
}

fn round_trips(mut stream: TcpStream, size: usize) -> anyhow::Result<Latencies> {
    stream.set_nodelay(true)?;
    let mut part = vec![7u8; size];
    timed(|| {
        stream.write_all(&part)?;
        stream.read_exact(&mut part)
    })
}

/// Sends back what comes until the other side closes.
fn echo(listener: &TcpListener, size: usize) -> std::io::Result<()> {
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut part = vec![0u8; size];
    while stream.read_exact(&mut part).is_ok() {
        stream.write_all(&part)?;
    }
    Ok(())
}

fn timed(mut step: impl FnMut() -> std::io::Result<()>) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new()?;
    let end = Instant::now() + TIME_MAX;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        step()?;
        let now = Instant::now();
        latencies.record(now - began);
        if now >= end {
            break;
        }
    }
    Ok(latencies)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_disk_and_loopback_are_timed() {
        let dir = tempfile::tempdir().unwrap();
        let probe = latencies(dir.path(), 256).await.unwrap();
        for what in ["fdatasync_us", "loopback_round_trip_us"] {
            assert!(probe[what]["count"].as_u64().unwrap() > 10, "{probe}");
            assert!(probe[what]["p50"].as_u64() <= probe[what]["p99"].as_u64(), "{probe}");
        }
    }
}
