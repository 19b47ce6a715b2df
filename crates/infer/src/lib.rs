//! taiyi-infer
#![forbid(unsafe_code)]
