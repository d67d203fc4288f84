"""The AWS stack: what runs the service on ECS Fargate."""
