//! Bytes on every port that no client of ours would send: refused, logged a bounded number of times, without a panic
//! and without effect.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;

use super::harness::{Cluster, Everything, append, append_surely, connect_lazily, message};
use super::wire::{PATIENCE, ask, peer_methods};

const ROOM: &str = "acme/room";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const CONNECTIONS: usize = 100;
/// More than a node logs about strangers on one port, whatever they send and however often.
const LINES_MAX: usize = 4;

/// Sends bytes and waits until the server has closed the connection.
async fn send(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may have refused it before all of it was written.
    let _ = stream.write_all(bytes).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "a connection of {} bytes is not ended", bytes.len());
}

/// An HTTP/2 frame: length, type, flags, stream, payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// What strangers send: random bytes, other protocols, and HTTP/2 that goes wrong at each of its layers.
fn garbage(seed: u64) -> Vec<Vec<u8>> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut noise = |bytes_max: usize| {
        let mut bytes = vec![0; random.random_range(1..bytes_max)];
        random.fill_bytes(&mut bytes);
        bytes
    };
    let settings = frame(4, 0, 0, &[]);
    let begun = [PREFACE, &settings].concat();
    let mut all = vec![
        noise(64),
        noise(100_000),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), // TLS
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: x\r\n".to_vec(),
        b"POST /quorate.v1.MessageLog/Append HTTP/1.1\r\nContent-Length: 5\r\n\r\n".to_vec(),
        format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(1_000_000)).into_bytes(),
        format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(10_000)).into_bytes(),
        PREFACE[..10].to_vec(),
        PREFACE.to_vec(),
        begun[..begun.len() - 3].to_vec(),
        begun.clone(),
        [&begun[..], &noise(50_000)].concat(),
        [&begun[..], &frame(1, 4, 1, &noise(1_000))].concat(), // headers that are no HPACK
        [&begun[..], &frame(0, 1, 1, &noise(1_000))].concat(), // data of a stream that is not open
        [&begun[..], &frame(9, 0, 1, &noise(1_000))].concat(), // a continuation of nothing
        [&begun[..], &[0xff; 9]].concat(),                     // a frame over every limit
    ];
    all.extend((0..20).map(|_| noise(2_000)));
    all.extend((0..20).map(|_| [&begun[..], &noise(2_000)].concat()));
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_on_any_port_is_refused_and_logged_once_and_nothing_else_happens() {
    let cluster = Cluster::start(1, "").await;
    let mut client = cluster.messages(1);
    append_surely(&mut client, append(ROOM, vec![message("first", "hello")])).await;
    let before = Everything::of(&mut client, &[ROOM]).await;
    let lines_before = cluster.log_lines(1);
    let peer = cluster.peer_address(1).await;
    let seed = rand::random();
    println!("seed {seed}");
    let ports = [cluster.address(1), peer.clone(), cluster.http_address(1)];
    for port in &ports {
        let sent = garbage(seed);
        join_all(sent.iter().map(|bytes| send(port, bytes))).await;
    }

    let channel = connect_lazily(&peer);
    let mut random = StdRng::seed_from_u64(seed);
    let methods = peer_methods();
    assert!(methods.len() >= 12, "the protocol was read: {methods:?}");
    for method in methods {
        for _ in 0..20 {
            let mut bytes = vec![0; random.random_range(0..500)];
            random.fill_bytes(&mut bytes);
            let path = format!("/quorate.peer.v1.Peer/{method}");
            let status = ask(&channel, &path, bytes.into()).await.expect_err("it is refused");
            let refused = [Code::InvalidArgument, Code::FailedPrecondition, Code::Unavailable];
            assert!(refused.contains(&status.code()), "{method}: {status:?}");
        }
        let unknown = "/quorate.peer.v1.Peer/NoSuchMethod";
        let status = ask(&channel, unknown, Bytes::new()).await.expect_err("there is none");
        assert_eq!(status.code(), Code::Unimplemented);
    }

    assert_eq!(Everything::of(&mut client, &[ROOM]).await, before);
    append_surely(&mut client, append(ROOM, vec![message("second", "hello")])).await;
    let log = cluster.log_of(1);
    let new: Vec<&str> = log.lines().skip(lines_before).collect();
    let of_port = |port: &str| new.iter().filter(|line| line.contains(port)).count();
    for port in ["client", "peer", "http"] {
        assert_eq!(of_port(&format!("port=\"{port}\"")), 1, "{port}: {new:#?}");
    }
    assert!(new.len() <= 2 * LINES_MAX, "{new:#?}");
    cluster.assert_no_panic(1);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn huge_headers_are_refused_and_slow_clients_are_in_nobodys_way() {
    let cluster = Cluster::start(1, "").await;
    let mut client = cluster.messages(1);
    append_surely(&mut client, append(ROOM, vec![message("first", "hello")])).await;

    let mut request = tonic::Request::new(append(ROOM, vec![message("huge", "x")]));
    request.metadata_mut().insert("x-huge", "h".repeat(200_000).parse().unwrap());
    let refused = cluster.messages(1).append(request).await;
    assert!(refused.is_err(), "{refused:?}");

    // Connections that begin and do not go on, at each stage, on each port; kept open until the end.
    let peer = cluster.peer_address(1).await;
    let settings = frame(4, 0, 0, &[]);
    let headers = {
        // POST, http, the path, and what gRPC needs, as HPACK literals.
        let mut block = vec![0x83, 0x86];
        for (name, value) in [
            (":path", "/quorate.v1.MessageLog/Append"),
            (":authority", "x"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
        ] {
            block.push(0x10);
            for text in [name, value] {
                block.push(text.len() as u8);
                block.extend(text.as_bytes());
            }
        }
        frame(1, 4, 1, &block)
    };
    let half = frame(0, 0, 1, &[0, 0, 0, 100, 0, 1, 2, 3]);
    let stages: [Vec<u8>; 4] = [
        Vec::new(),
        PREFACE[..5].to_vec(),
        [PREFACE, &settings].concat(),
        [PREFACE, &settings, &headers, &half].concat(),
    ];
    let mut open = Vec::new();
    for stage in &stages {
        for number in 0..CONNECTIONS {
            let port = if number % 2 == 0 { cluster.address(1) } else { peer.clone() };
            let mut stream = TcpStream::connect(port).await.unwrap();
            stream.write_all(stage).await.unwrap();
            open.push(stream);
        }
    }
    for number in 0..20 {
        let mut fresh = cluster.messages(1);
        let request = append(ROOM, vec![message(&number.to_string(), "x")]);
        let answered = timeout(Duration::from_secs(5), fresh.append(request)).await;
        answered.expect("slow clients do not slow others down").unwrap();
    }
    assert!(open.len() == stages.len() * CONNECTIONS);
    cluster.assert_no_panic(1);
    cluster.stop().await;
}
