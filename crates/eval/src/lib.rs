//! taiyi-eval
#![forbid(unsafe_code)]
