//! The generated messages and services, included in this one place.

/// `taugate.v1`, as `proto/taugate/v1` documents it.
#[allow(
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::allow_attributes_without_reason,
    clippy::allow_attributes,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("taugate.v1");
}

/// The descriptors that reflection serves: `InferenceService` and what it uses.
pub const PUBLIC_DESCRIPTORS: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/public_descriptor.bin"));
