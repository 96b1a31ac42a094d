# An ALB in front of pods, registered by the AWS Load Balancer Controller. It learns of the end of a pod at the moment
# at which the pod is told to stop, and ALB takes seconds more to act on it: meanwhile the pod has to serve. So
# pods.yaml sleeps before SIGTERM (preStop). The numbers have to nest:
#
#   controller and ALB, some 10 s  < preStop sleep (20)      or ALB sends to a port that is closed: 502
#   longest request (30)           < deregistration_delay    or ALB cuts it
#   longest request                < idle_timeout            or ALB answers 504, if it sends nothing meanwhile
#   idle_timeout                   < keep-alive (75)         or request and FIN cross, and the client gets 502
#   preStop sleep + drain          < terminationGracePeriodSeconds (60)
#
# Where Terraform leaves the target group to the controller, the same numbers are annotations of the Ingress:
#   alb.ingress.kubernetes.io/target-type: ip
#   alb.ingress.kubernetes.io/target-group-attributes: deregistration_delay.timeout_seconds=60
#   alb.ingress.kubernetes.io/load-balancer-attributes: idle_timeout.timeout_seconds=60

terraform {
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.0"
    }
  }
}

variable "vpc_id" {
  type = string
}

variable "subnet_ids" {
  type = list(string)
}

variable "security_group_ids" {
  type = list(string)
}

resource "aws_lb" "app" {
  name               = "app"
  load_balancer_type = "application"
  subnets            = var.subnet_ids
  security_groups    = var.security_group_ids

  # For connections of clients and for those to targets alike.
  idle_timeout = 60
}

resource "aws_lb_target_group" "app" {
  name        = "app"
  port        = 8080
  protocol    = "HTTP"
  target_type = "ip" # instance: ALB would know of nodes only, and kube-proxy would choose the pod
  vpc_id      = var.vpc_id

  # Twice the longest request. The pod may be gone before: a target that drains gets no new requests. The default is
  # 300.
  deregistration_delay = 60

  # A new target gets its full share at once. Slow start is for caches that need warming, 30 s at least.
  slow_start = 0

  # It need not notice the end of a pod, the controller does that; but it decides how long a rollout waits for the
  # readiness gate: interval × healthy_threshold. While no target is healthy ALB sends to all of them.
  health_check {
    path                = "/health/ready"
    matcher             = "200"
    interval            = 5
    timeout             = 2
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }
}

resource "aws_lb_listener" "http" {
  load_balancer_arn = aws_lb.app.arn
  port              = 80
  protocol          = "HTTP"

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.app.arn
  }
}
