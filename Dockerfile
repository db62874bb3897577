# The binary is static, so the image needs nothing but certificates for TLS to Postgres, and what documents are read with.
FROM golang:1.26-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY cmd cmd
COPY handlers handlers
COPY migrations migrations
COPY static static
COPY store store
COPY streams streams
ARG VERSION=""
RUN CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.release=${VERSION}" -o /sluice ./cmd/sluice

FROM alpine:3.22
RUN apk add --no-cache ca-certificates poppler-utils tesseract-ocr tesseract-ocr-data-eng tesseract-ocr-data-osd && adduser -D -H -u 10001 sluice
COPY --from=build /sluice /usr/local/bin/sluice
USER sluice
# The image brings no Postgres: DATABASE_URL and SLUICE_JWT_SECRET are required. The admin listener stays on the
# container's loopback unless SLUICE_ADMIN_LISTEN says otherwise.
ENV SLUICE_LISTEN=0.0.0.0:8080
EXPOSE 8080
# Draining begins with SIGTERM; give it more time than --drain (docker stop -t 40).
STOPSIGNAL SIGTERM
# Live, not ready: a container that is ended while the database is away does not bring it back. Whoever changes SLUICE_LISTEN
# or serves TLS changes this, too.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD wget -q -O /dev/null http://127.0.0.1:8080/healthz/live
ENTRYPOINT ["sluice"]
CMD ["serve"]
