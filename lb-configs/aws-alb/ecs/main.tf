# An ALB in front of an ECS service. ECS takes a task out of the target group first and sends SIGTERM when the target
# is no longer draining: nothing is raced, and the server needs no lame-duck. The numbers have to nest:
#
#   longest request < deregistration_delay           or ALB cuts it
#   longest request < idle_timeout                   or ALB answers 504, if it sends nothing meanwhile
#   idle_timeout    < keep-alive of the server (75)  or request and FIN cross, and the client gets 502
#   lame-duck + drain of the server < stopTimeout    or ECS kills it
#
# aws_ecs_service and aws_ecs_task_definition belong to the service; of them only the target group and stopTimeout
# (of the container, at most 120 on Fargate) matter here.

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
  target_type = "ip"
  vpc_id      = var.vpc_id

  # Twice the longest request, no more: it is what each deploy waits for while a client keeps a connection. The
  # default is 300.
  deregistration_delay = 60

  # A new target gets its full share at once. Slow start is for caches that need warming, 30 s at least.
  slow_start = 0

  # It need not notice the end of a task, ECS does that: it is for tasks that fail. While no target is healthy ALB
  # sends to all of them.
  health_check {
    path                = "/health/ready"
    matcher             = "200"
    interval            = 10
    timeout             = 5
    healthy_threshold   = 2
    unhealthy_threshold = 3
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
