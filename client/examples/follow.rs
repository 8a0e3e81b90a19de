//! Prints a conversation: the last ten messages, then live.
//!
//! `quorate dev`, then `cargo run -p quorate-client --example follow`.

use quorate_client::{Client, ClientOptions, Delivery, Start};

#[tokio::main]
async fn main() -> Result<(), quorate_client::Error> {
    let client = Client::connect(ClientOptions::new(["127.0.0.1:7101"])).await?;
    let mut follow = client.follow([("acme/room-42", Start::Last(10))])?;
    while let Some(delivery) = follow.next().await {
        match delivery? {
            Delivery::Messages { messages, .. } => {
                for message in messages {
                    println!("{:>4}  {}: {:?}", message.seq, message.sender, message.payload);
                }
            }
            Delivery::CaughtUp { next_seq, .. } => println!("-- live from seq {next_seq} --"),
            Delivery::Gap { from_seq, to_seq, .. } => {
                println!("-- {from_seq}..{to_seq} is gone --");
            }
            _ => {}
        }
    }
    Ok(())
}
