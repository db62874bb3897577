// Package bench measures a running Sluice. It starts no server: it is pointed at one.
//
// Beside the server it measures a floor: a child of the same binary that does nothing but write(2) the same bytes to
// the same number of sockets, by the same schedule. What is left above the floor is the price of everything else that
// Sluice does.
//
// Server, load and floor share the machine, so that the load is made to be cheap: few threads read raw sockets through
// epoll, and every frame is looked at once, where it lies.
package bench
