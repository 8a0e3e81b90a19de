//! Subscribes to conversations that come and go.
//!
//! `quorate dev`, then `cargo run -p quorate-client --example subscribe`.

use quorate_client::{Append, Client, ClientOptions, Credit, Delivery, NewMessage, Start};

#[tokio::main]
async fn main() -> Result<(), quorate_client::Error> {
    let client = Client::connect(ClientOptions::new(["127.0.0.1:7101"])).await?;
    let mut subscription = client.subscribe();
    // At most 64 KiB of the lobby on their way at a time, given again as they are taken.
    subscription.add("acme/lobby", Start::Earliest, Credit::Automatic(64 * 1024)).await?;

    let message = NewMessage::text("room-42 is open");
    client.append(Append::new("acme/lobby", "concierge", message)).await?;
    loop {
        match subscription.next().await {
            Delivery::Messages { conversation, messages } => {
                println!("{conversation}: {} new", messages.len());
                let is_open = |m: &quorate_client::proto::Message| m.payload.ends_with(b"is open");
                if conversation == "acme/lobby" && messages.iter().any(is_open) {
                    subscription.remove("acme/lobby").await;
                    subscription.add("acme/room-42", Start::Last(5), Credit::default()).await?;
                }
            }
            Delivery::CaughtUp { conversation, .. } if conversation == "acme/room-42" => {
                println!("{conversation}: that is all");
                return Ok(());
            }
            Delivery::Ended { conversation, error: None } => println!("{conversation}: left"),
            Delivery::Ended { error: Some(error), .. } => return Err(error),
            _ => {}
        }
    }
}
