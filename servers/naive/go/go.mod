module drainspec.example/naive

go 1.24.0
