//! Pipelines appends to several conversations; each conversation keeps its order.
//!
//! `quorate dev`, then `cargo run -p quorate-client --example session`.

use quorate_client::{Append, Client, ClientOptions, NewMessage, SessionOptions};

#[tokio::main]
async fn main() -> Result<(), quorate_client::Error> {
    let client = Client::connect(ClientOptions::new(["127.0.0.1:7101"])).await?;
    let session = client.session(SessionOptions::default())?;

    let mut handles = Vec::new();
    for number in 0..1_000 {
        let room = format!("acme/room-{}", number % 10);
        let message = NewMessage::text(format!("message {number}"));
        // Waits only while the window is full.
        handles.push((room.clone(), session.append(Append::new(room, "alice", message)).await));
    }
    for (room, handle) in handles {
        if let Err(error) = handle.await {
            // This append and all behind it in its room failed; other rooms go on.
            println!("{room}: {error}; retryable: {}", error.retryable());
            session.resume(room).await;
        }
    }
    println!("1,000 appends have their outcome");
    Ok(())
}
