//! Appends a message and reads the conversation back.
//!
//! `quorate dev`, then `cargo run -p quorate-client --example append_and_read`.

use quorate_client::{Append, Client, ClientOptions, NewMessage, Read, Start};

#[tokio::main]
async fn main() -> Result<(), quorate_client::Error> {
    let client = Client::connect(ClientOptions::new(["127.0.0.1:7101"])).await?;

    let message = NewMessage::text("hello, world").header("lang", "en");
    let ack = client.append(Append::new("acme/room-42", "alice", message)).await?;
    println!("committed at seq {} on a quorum", ack.last_seq);

    // Only if nobody wrote in between; a wrong tail is refused and says the right one.
    let reply = Append::new("acme/room-42", "bob", NewMessage::text("hello, alice"));
    match client.append(reply.expected_tail(ack.last_seq + 1)).await {
        Ok(ack) => println!("and answered at seq {}", ack.last_seq),
        Err(error) => println!("somebody was faster: the tail is {:?}", error.tail()),
    }

    let page = client.read(Read::new("acme/room-42").start(Start::Last(10))).await?;
    for message in page.messages {
        println!("{:>4}  {}: {:?}", message.seq, message.sender, message.payload);
    }
    Ok(())
}
