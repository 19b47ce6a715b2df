//! taiyi-train
#![forbid(unsafe_code)]
