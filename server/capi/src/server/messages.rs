//! `TRITONSERVER_Message`: JSON that goes between the server and libraries.

use server_core::error::Error;

use super::delete;
use crate::abi::{Array, Handle, Out, Text, export::exports, objects::Message};

exports! {
    /// A message of that JSON.
    fn TRITONSERVER_MessageNewFromSerializedJson(message: Out<Handle<Message>>, base: Array<u8>, byte_size: usize) {
        let json = base.get(byte_size as u64)?;
        let json = std::str::from_utf8(json).map_err(|error| Error::internal(format!("the JSON is not UTF-8: {error}")))?;
        serde_json::from_str::<serde::de::IgnoredAny>(json)
            .map_err(|error| Error::internal(format!("failed to parse the request JSON buffer: {error}")))?;
        message.set(Handle::new(Message::of(json)))
    }

    /// Deletes a message.
    fn TRITONSERVER_MessageDelete(message: Handle<Message>) {
        delete(message)
    }

    /// Its text, for as long as the message is there.
    fn TRITONSERVER_MessageSerializeToJson(message: Handle<Message>, base: Out<Text>, byte_size: Out<usize>) {
        let message = message.get()?;
        byte_size.set(message.json.as_bytes().len())?;
        base.set(Text::of(&message.json))
    }
}
