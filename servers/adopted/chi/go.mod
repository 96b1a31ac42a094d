module drainspec.example/adopted

go 1.24.0

require github.com/go-chi/chi/v5 v5.5.0
