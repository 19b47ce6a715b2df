//! taiyi-model
#![forbid(unsafe_code)]
