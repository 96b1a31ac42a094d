//! What is read from a file for Terraform, and what is said of one that cannot be read.

use std::path::Path;
use std::time::Duration;

use drainspec::catalog::terraform::Terraform;
use drainspec::model::target_group::{Matcher, Settings, TargetType};

const BALANCER: &str = "resource \"aws_lb\" \"app\" {}\n";

fn group(inside: &str) -> String {
    format!("{BALANCER}resource \"aws_lb_target_group\" \"app\" {{\n{inside}\n}}\n")
}

fn parse(text: &str) -> Terraform {
    Terraform::parse(Path::new("main.tf"), text).unwrap_or_else(|error| panic!("{error}"))
}

fn error(text: &str) -> String {
    Terraform::parse(Path::new("main.tf"), text).expect_err("it is not what it should be").to_string()
}

#[test]
fn every_example_of_the_repository_is_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lb-configs/aws-alb");
    let delays = [("ecs", 60), ("eks", 60), ("short-deregistration", 5)];
    for (name, delay) in delays {
        let read = Terraform::load(&folder.join(name)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read.settings.deregistration_delay, Duration::from_secs(delay), "{name}");
        assert_eq!(read.settings.target_type, TargetType::Ip, "{name}");
        assert_eq!(read.settings.path, "/health/ready", "{name}");
        assert_eq!(read.notes, ["client_keep_alive is not set: 3600 s, the default"], "{name}");
    }
}

#[test]
fn all_settings_are_read() {
    let text = r#"
        resource "aws_alb" "app" {
          load_balancer_type = "application"
          idle_timeout       = 61
          client_keep_alive  = "62"
        }
        resource "aws_alb_target_group" "app" {
          port                 = 8080
          vpc_id               = var.vpc_id
          target_type          = "ip"
          deregistration_delay = "63"
          slow_start           = 64
          health_check {
            path                = "/ready"
            matcher             = "200,204-206"
            interval            = 65
            timeout             = 6
            healthy_threshold   = "7"
            unhealthy_threshold = 8
          }
        }"#;
    let expected = Settings {
        target_type: TargetType::Ip,
        deregistration_delay: Duration::from_secs(63),
        slow_start: Duration::from_secs(64),
        interval: Duration::from_secs(65),
        timeout: Duration::from_secs(6),
        healthy_threshold: 7,
        unhealthy_threshold: 8,
        path: "/ready".to_owned(),
        matcher: Matcher::parse("200,204-206").unwrap(),
        idle_timeout: Duration::from_secs(61),
        client_keep_alive: Duration::from_secs(62),
    };
    assert_eq!(parse(text), Terraform { settings: expected, notes: Vec::new() });
}

#[test]
fn what_is_not_set_is_said() {
    let read = parse(&group(""));
    assert_eq!(read.settings, Settings::default());
    let expected = [
        "target_type is not set: instance, the default",
        "deregistration_delay is not set: 300 s, the default",
        "slow_start is not set: 0 s, the default",
        "idle_timeout is not set: 60 s, the default",
        "client_keep_alive is not set: 3600 s, the default",
        "health_check is not set: /, 200, every 30 s, within 5 s, thresholds 5 and 2, the defaults of the API",
    ];
    assert_eq!(read.notes, expected);
}

#[test]
fn a_health_check_without_thresholds_has_those_of_terraform() {
    let read = parse(&group("health_check {\n  path = \"/ready\"\n}"));
    assert_eq!((read.settings.healthy_threshold, read.settings.unhealthy_threshold), (3, 3));
    assert!(read.notes.contains(&"healthy_threshold is not set: 3, the default of Terraform".to_owned()));
}

#[test]
fn what_has_no_effect_is_said() {
    let read = parse(&group(
        "protocol = \"HTTPS\"\nload_balancing_algorithm_type = var.algorithm\nprotocol_version = \"HTTP1\"\nstickiness {\n  type = \"lb_cookie\"\n}",
    ));
    let said: Vec<_> = read.notes.iter().filter(|note| note.contains("no effect")).collect();
    let expected = [
        "load_balancing_algorithm_type is var.algorithm, and has no effect here: it is not modelled",
        "protocol is HTTPS, and has no effect here: it is not modelled",
        "stickiness is set, and has no effect here: it is not modelled",
    ];
    assert_eq!(said, expected);
}

#[test]
fn errors_name_the_line_the_value_and_the_way_out() {
    let cases = [
        (
            group("deregistration_delay = var.delay"),
            "main.tf:3: `deregistration_delay`: `var.delay` is not written out: put the value itself here",
        ),
        (
            group("deregistration_delay = \"${var.delay}\""),
            "main.tf:3: `deregistration_delay`: `\"${var.delay}\"` is not written out: put the value itself here",
        ),
        (
            group("\nslow_start = \"soon\""),
            "main.tf:4: `slow_start`: `soon` is no number of whole seconds: write such as 60",
        ),
        (group("slow_start = 1.5"), "main.tf:3: `slow_start`: `1.5` is no number of whole seconds: write such as 60"),
        (
            group("deregistration_delay = 4000"),
            "main.tf:3: `deregistration_delay`: 4000 s is not allowed, 0 to 3600 whole seconds are: the nearest is 3600 s",
        ),
        (
            group("target_type = \"lambda\""),
            "main.tf:3: `target_type`: `lambda` is not modelled: `instance` and `ip` are",
        ),
        (group("count = 2"), "main.tf:3: count would be several of `aws_lb_target_group`: write one out"),
        (
            group("health_check {\nmatcher = \"2xx\"\n}"),
            "main.tf:4: `matcher`: `2xx` is not allowed, values and ranges from 200 to 499, separated by commas are: write it as `200`, `200,202` or `200-299`",
        ),
        (
            group("health_check {\nhealthy_threshold = true\n}"),
            "main.tf:4: `healthy_threshold`: `true` is not written out: put the value itself here",
        ),
        (group("health_check {\n}\nhealth_check {\n}"), "main.tf:5: there is a second `health_check`: leave one"),
        (
            group("dynamic \"health_check\" {\n}"),
            "main.tf:3: `dynamic \"health_check\"` cannot be read: write the block out",
        ),
        (
            BALANCER.to_owned(),
            "main.tf: `aws_lb_target_group`: there is no such resource: add the one that is to be played",
        ),
        (group("") + BALANCER, "main.tf: `aws_lb`: there are 2 of them, on lines 1, 5: leave one"),
        (
            group("").replace("{}", "{\nload_balancer_type = \"network\"\n}"),
            "main.tf:2: `load_balancer_type`: `network` is not modelled: only `application` is",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error(&text), expected, "{text}");
    }
    let broken = error("resource \"aws_lb\" \"app\" {\n  idle_timeout = \n}\n");
    assert!(broken.starts_with("main.tf:2: this is not HCL: "), "{broken}");
}

#[test]
fn a_folder_without_the_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let error = Terraform::load(folder.path()).unwrap_err().to_string();
    assert!(error.contains("main.tf"), "{error}");
}
