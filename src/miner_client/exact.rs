//! A codec that sends bytes as they are: what a session's hash covers is what goes out.

use bytes::{BufMut as _, Bytes};
use tonic::Status;
use tonic::codec::{Codec, EncodeBuf, Encoder};
use tonic_prost::ProstCodec;

use crate::proto::v1::MinerGenerateResponse;

type Decoding = ProstCodec<(), MinerGenerateResponse>;

/// Sends an attempt that is encoded already; reads the answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exact;

/// Sends bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Verbatim;

// === impl Exact ===

impl Codec for Exact {
    type Encode = Bytes;
    type Decode = MinerGenerateResponse;
    type Encoder = Verbatim;
    type Decoder = <Decoding as Codec>::Decoder;

    fn encoder(&mut self) -> Verbatim {
        Verbatim
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoding::default().decoder()
    }
}

// === impl Verbatim ===

impl Encoder for Verbatim {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}
