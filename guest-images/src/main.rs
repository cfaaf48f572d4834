//! `cargo run -p guest-images -- micro|chaos|mini|debian`: makes a guest and prints where it lies.

use std::path::Path;
use std::process::ExitCode;

use guest_images::{LinuxImage, MicroOptions, chaos, client_key, debian, micro, mini};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let made = match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["micro"] => micro(MicroOptions::default()).map(|path| show("elf", &path)),
        ["chaos"] => chaos().map(|path| show("elf", &path)),
        ["debian"] => debian().and_then(|image| {
            show_linux(&image);
            client_key().map(|path| show("key", &path))
        }),
        ["mini"] => mini().map(|image| show_linux(&image)),
        _ => {
            eprintln!("usage: guest-images micro|chaos|mini|debian");
            return ExitCode::from(2);
        }
    };
    match made {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(what: &str, path: &Path) {
    println!("{what} {}", path.display());
}

fn show_linux(image: &LinuxImage) {
    show("kernel", &image.kernel);
    show("initrd", &image.initrd);
    println!("cmdline {}", image.cmdline);
    for disk in &image.disks {
        println!("disk {} {}", disk.name, disk.template.display());
    }
}
